"Files are written whole or not at all, whatever the writer does and whenever it is killed."
import os, subprocess, sys, threading
import pytest
from granularity_nb.files import by_threads, locked, remove_unfinished, whole_file, write_whole

DIES = '''
import os, sys
from granularity_nb.files import whole_file
with whole_file(sys.argv[1]) as f:
    f.write_text('half')
    f.with_name('.tmpA1b2C3').write_text('what safetensors and other writers keep beside their file')
    os._exit(9)
'''


def names(folder): return sorted(o.name for o in folder.iterdir())


def test_what_a_killed_writer_leaves_is_found_and_removed(tmp_path):
    "Its own temporary files, too: safetensors writes to one beside the path that it is given."
    write_whole(tmp_path/'a'/'table.csv', 'old')
    for path in ('a/table.csv', 'a/new.csv'): assert subprocess.run([sys.executable, '-c', DIES, tmp_path/path]).returncode == 9
    assert (tmp_path/'a'/'table.csv').read_text() == 'old' and len(names(tmp_path/'a')) == 3
    assert remove_unfinished(tmp_path) == [] and len(names(tmp_path/'a')) == 3, 'not below'
    assert len(remove_unfinished(tmp_path, recursive=True)) == 2 and names(tmp_path/'a') == ['table.csv']
    assert remove_unfinished(tmp_path/'a') == [] == remove_unfinished(tmp_path/'not there')


def test_files_of_others_stay(tmp_path):
    "A name like ours is not enough, and what a link leads to is elsewhere."
    for name in ('.tmp-mine', '.tmpA1b2C3', 'kept.csv'): (tmp_path/name).write_text('')
    (tmp_path/'tmp').mkdir()
    (tmp_path/'proj'/'.tmp-abcdefgh').mkdir(parents=True)
    (tmp_path/'proj'/'.tmp-abcdefgh'/'thesis.tex').write_text('x')
    (tmp_path/'elsewhere').mkdir()
    subprocess.run([sys.executable, '-c', DIES, tmp_path/'elsewhere'/'a.csv'])
    [ours] = (tmp_path/'elsewhere').iterdir()
    (tmp_path/'proj'/'.tmp-link').symlink_to(ours)
    (tmp_path/'proj'/'all').symlink_to(tmp_path/'elsewhere')
    before = sorted(tmp_path.rglob('*'))
    assert remove_unfinished(tmp_path/'proj', recursive=True) == [] == remove_unfinished(tmp_path) and sorted(tmp_path.rglob('*')) == before
    assert remove_unfinished(tmp_path, recursive=True) == [ours] and not ours.exists()


def test_a_file_that_is_being_written_is_not_taken_for_one_left_behind(tmp_path):
    "A report beside a study that starts, two studies with one cache."
    stop = threading.Event()
    def removes():
        while not stop.is_set(): remove_unfinished(tmp_path, recursive=True)
    t = threading.Thread(target=removes)
    t.start()
    try:
        for i in range(200): write_whole(tmp_path/'report'/f'{i%3}.md', f'{i}')
    finally:
        stop.set()
        t.join()
    assert names(tmp_path/'report') == ['0.md','1.md','2.md'] and (tmp_path/'report'/'1.md').read_text() == '199'
    with whole_file(tmp_path/'w.txt') as f:
        f.write_text('x')
        assert remove_unfinished(tmp_path) == []


def test_a_lock_changes_no_file(tmp_path):
    (tmp_path/'.lock').write_text("somebody's")
    with locked(tmp_path/'.lock') as mine:
        with locked(tmp_path/'.lock') as too: assert (mine, too) == (True, False)
    assert (tmp_path/'.lock').read_text() == "somebody's"
    (tmp_path/'link').symlink_to(tmp_path/'new')
    with pytest.raises(OSError):
        with locked(tmp_path/'link'): pass
    assert not (tmp_path/'new').exists()


@pytest.mark.parametrize('writer', ['replaces', 'appends', 'is safetensors'])
def test_writers_of_every_kind(writer, tmp_path):
    if writer == 'is safetensors':
        import torch
        from safetensors.torch import load_file, save_file
        with whole_file(tmp_path/'w.safetensors') as f: save_file(dict(w=torch.arange(3)), f)
        assert load_file(tmp_path/'w.safetensors')['w'].tolist() == [0,1,2] and names(tmp_path) == ['w.safetensors']
        return
    with whole_file(tmp_path/'w.txt') as f:
        assert f.suffix == '.txt' and not (tmp_path/'w.txt').exists()
        if writer == 'replaces':
            f.with_name('.tmpA1b2C3').write_text('text')
            os.replace(f.with_name('.tmpA1b2C3'), f)
        else:
            for c in 'text':
                with open(f, 'a') as o: o.write(c)
    assert (tmp_path/'w.txt').read_text() == 'text' and names(tmp_path) == ['w.txt']


def test_nothing_is_left_of_a_writer_that_fails(tmp_path):
    write_whole(tmp_path/'w.txt', 'old')
    with pytest.raises(ZeroDivisionError):
        with whole_file(tmp_path/'w.txt') as f:
            f.with_name('.tmpA1b2C3').write_text('half')
            1/0
    with pytest.raises(FileNotFoundError, match='w.txt'):
        with whole_file(tmp_path/'w.txt'): pass # nothing was written
    assert (tmp_path/'w.txt').read_text() == 'old' and names(tmp_path) == ['w.txt']


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such permissions')
def test_others_may_read_what_the_mask_allows(tmp_path):
    old = os.umask(0o027)
    try: write_whole(tmp_path/'w.txt', 'text')
    finally: os.umask(old)
    assert (tmp_path/'w.txt').stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such permissions')
def test_the_mask_is_never_set(tmp_path, monkeypatch):
    "It belongs to all threads: files that another one makes at that moment would be writable by everybody."
    monkeypatch.setattr(os, 'umask', lambda o: pytest.fail('set'))
    write_whole(tmp_path/'w.txt', 'text')


def test_many_rows_are_worked_through_by_several_threads():
    "Three pieces that wait for each other only end if they run at once; what comes back is in order."
    together = threading.Barrier(3, timeout=20)
    def f(k):
        together.wait()
        return k.start, k.stop
    assert by_threads(f, 11, piece=4) == [(0,4), (4,8), (8,11)]

def test_few_rows_need_no_threads():
    assert by_threads(lambda k: (k, threading.get_ident()), 8, piece=4) == [(k, threading.get_ident()) for k in (slice(0,4), slice(4,8))]
    assert by_threads(None, 0) == []

def test_an_error_of_a_thread_is_passed_on():
    with pytest.raises(ZeroDivisionError): by_threads(lambda k: 1//(k.start-4), 12, piece=4)
