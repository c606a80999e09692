"Provenance: the commit of a checkout and only of one's own, changes that count and those that do not, and what is not known."
import json, shutil, subprocess, sys
import pytest
from granularity_nb import provenance
from granularity_nb.provenance import checkout_commit, origin

CHANGED = ' (with uncommitted changes)'

@pytest.fixture
def checkout(tmp_path):
    "A repository with a committed package and a committed note beside it."
    if not shutil.which('git'): pytest.skip('needs git')
    def git(*args): return subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=A', '-c', 'user.email=a@example.org', *args], check=True, capture_output=True, text=True)
    (tmp_path/'package').mkdir()
    (tmp_path/'package'/'a.py').write_text('x = 1\n')
    (tmp_path/'note.txt').write_text('one\n')
    git('init')
    git('add', '.')
    git('commit', '-m', 'first')
    return tmp_path, git('rev-parse', 'HEAD').stdout.strip()

def test_clean(checkout):
    folder,head = checkout
    assert len(head) == 40 and checkout_commit(folder/'package') == head

@pytest.mark.parametrize('name', ['a.py', 'new.py'])
def test_a_changed_and_a_new_file_are_said(checkout, name):
    folder,head = checkout
    (folder/'package'/name).write_text('x = 2\n')
    assert checkout_commit(folder/'package') == head+CHANGED

def test_a_change_beside_the_folder_does_not_count(checkout):
    folder,head = checkout
    (folder/'note.txt').write_text('two\n')
    assert checkout_commit(folder/'package') == head and checkout_commit(folder) == head+CHANGED

def test_somebody_elses_repository_is_not_ours(checkout):
    "As of a package that is installed below a project's folder."
    folder,_ = checkout
    (folder/'venv').mkdir()
    (folder/'venv'/'b.py').write_text('')
    assert checkout_commit(folder/'venv') is None

def test_no_repository_no_commit_no_git(tmp_path, monkeypatch):
    assert checkout_commit(tmp_path/'missing') is None
    if shutil.which('git'):
        subprocess.run(['git', '-C', str(tmp_path), 'init'], check=True, capture_output=True)
        (tmp_path/'a.py').write_text('')
        subprocess.run(['git', '-C', str(tmp_path), 'add', '.'], check=True, capture_output=True)
        assert checkout_commit(tmp_path) is None, 'nothing committed yet'
    monkeypatch.setenv('PATH', str(tmp_path))
    assert checkout_commit() is None

def test_a_git_that_hangs_is_not_waited_for(monkeypatch):
    def hang(cmd, timeout, **kw): raise subprocess.TimeoutExpired(cmd, timeout)
    monkeypatch.setattr(provenance.subprocess, 'run', hang)
    assert checkout_commit() is None

def test_record(checkout):
    got = origin('cpu (test)', ['pytest', 'no-such-package'], folder=checkout[0])
    assert list(got) == ['command', 'commit', 'python', 'system', 'device', 'versions'] and json.loads(json.dumps(got)) == got
    assert got['commit'] == checkout[1] and got['device'] == 'cpu (test)' and got['versions'] == {'pytest': pytest.__version__, 'no-such-package': None}
    assert got['python'] == '.'.join(map(str, sys.version_info[:3])) and origin('cpu', [], 'make study')['command'] == 'make study'

@pytest.mark.parametrize('program,name', [('/usr/bin/granularity', 'granularity'), ('C:/x/granularity_nb/cli.py', 'granularity'), ('/home/a/sweep.py', 'sweep.py')])
def test_command(monkeypatch, program, name):
    "The program by its name: where it is installed is nobody's business."
    monkeypatch.setattr(sys, 'argv', [program, 'theory', '--full'])
    assert origin('cpu', [])['command'] == f'{name} theory --full'
