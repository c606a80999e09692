"A study that is killed, continued, refused and reported, through the command line as a user runs it."
import json, multiprocessing as mp, os, re, shutil, signal, subprocess, sys, threading, time, warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from granularity_nb.cli import main
from granularity_nb.files import locked, whole_file, write_whole
from granularity_nb.labels.hierarchy import Hierarchy
from granularity_nb.data.images import SourceWarning
from granularity_nb.data.source import Source, Split
from granularity_nb.study.plan import Plan, StudyError, checked, label_map, n_seen, open_source, plan_from_dict, preset, presets, runs
from granularity_nb.study.report import curve, figure, findings, forest_plot, mean_interval, paired, paired_table, report, summary
from granularity_nb.study.run import _claim, _fatal, _heard, _locked, _opened, _pretrain_best, _queue, _tell, _why_ended, collect, execute, load_plan, run
from granularity_nb.training.backbone import create_backbone, load_checkpoint
from granularity_nb.training.evaluate import evaluate, load_predictions
from granularity_nb.training.probe import C_grid, grid_place
from granularity_nb.training.recipe import Recipe

SMALL = ['--levels', 'script,base letter', '--transfers', 'readout,finetune', '--seeds', '0', '--images', '256', '--workers', '2']


def _study(out, *args): return [sys.executable, '-m', 'granularity_nb.cli', 'study', *SMALL, '--out', str(out), *args]


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A study that was left alone."
    out = tmp_path_factory.mktemp('study')/'alone'
    r = subprocess.run(_study(out), capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return out, r.stdout


def test_unfinished_study_without_a_baseline_is_reported(done, tmp_path):
    out = tmp_path/'copy'
    shutil.copytree(done[0], out)
    for o in json.loads((out/'plan.json').read_text())['runs']:
        if o['label_map'] == 'direct': shutil.rmtree(out/'runs'/o['id'])
    page = report(out).read_text()
    assert 'no direct baseline' in page and '2 of 3 runs' in page


def _moments(out):
    "Things that happen one after the other in a study's folder."
    def files(pattern): return list((out/'runs').glob(pattern))
    return [('an epoch', lambda: any(f.read_bytes().count(b'\n') > 1 for f in files('*/metrics.csv'))),
            ('a checkpoint', lambda: files('*/checkpoint.json')),
            ('a result', lambda: files('*/transfers/*/result.json')),
            ('three results', lambda: len(files('*/transfers/*/result.json')) >= 3)]


def _kill_when(cond, out):
    "Start the study and kill -9 its main process when `cond` holds; its workers must end by themselves."
    import psutil
    p = subprocess.Popen(_study(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start = time.monotonic()
    while not cond() and p.poll() is None:
        assert time.monotonic()-start < 300, 'the study did not get that far'
        time.sleep(.02)
    children = psutil.Process(p.pid).children(recursive=True) if p.poll() is None else []
    p.send_signal(signal.SIGKILL)
    p.wait()
    _,alive = psutil.wait_procs(children, timeout=60)
    assert not alive, f'still running after the kill: {alive}'


def test_killed_at_several_moments_ends_with_the_same_table(done, tmp_path):
    out = tmp_path/'killed'
    for what,cond in _moments(out): _kill_when(cond, out)
    assert not (out/'results.parquet').exists(), 'the last kill came too late to test anything'
    before = {f: f.stat().st_mtime_ns for f in (out/'runs').glob('*/transfers/*/result.json')}
    assert len(before) >= 3
    r = subprocess.run(_study(out), capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert (out/'results.parquet').read_bytes() == (done[0]/'results.parquet').read_bytes()
    assert {f: f.stat().st_mtime_ns for f in before} == before, 'what was done has been done again'
    assert not list(out.rglob('.tmp-*')), 'debris of the kills'


def test_a_study_tells_what_it_did(done):
    out,said = done
    assert 'direct' in said and 'base letter' in said and str(out/'report'/'report.html') in said
    t = pd.read_parquet(out/'results.parquet')
    assert len(t) == (1+2*2)*3 and set(t.split) == {'test','shifted','valid'} and t.error.between(0, 1).all()
    stored = json.loads((out/'plan.json').read_text())
    source = open_source(load_plan(out), 0)
    digests = {o['label_map']: o['digest'] for o in stored['runs']}
    assert digests['base letter'] == source.level('base letter').digest and digests['direct'] == source.target.digest
    assert {'command','commit','device','versions'} <= set(json.loads((out/'provenance.json').read_text()))


def test_the_validation_images_are_measured_too_and_change_no_identity(done, tmp_path):
    "To choose by, in every study whose data set has them; a folder from before is continued and reported as it is."
    out = tmp_path/'older'
    shutil.copytree(done[0], out)
    assert load_plan(out).splits == ('test','shifted') and 'split \'valid\'' not in (out/'report'/'report.md').read_text()
    for f in (out/'runs').glob('*/transfers/*/result.json'):
        rows = json.loads(f.read_text())
        assert [o['split'] for o in rows] == ['test','shifted','valid'] and rows[-1]['n'] == 1000
        f.write_text(json.dumps(rows[:2]))
    times = _times(out)
    run(load_plan(out), out, progress=False)
    assert _times(out) == times and set(collect(out).split) == {'test','shifted'} and report(out).exists()


def test_table_agrees_with_the_stored_predictions(done):
    out,_ = done
    for f in (out/'runs').glob('*/transfers/*/result.json'):
        p = np.load(f.with_name('predictions.npz'))
        for row in json.loads(f.read_text()):
            wrong = p[f"{row['split']}/predicted"] != p[f"{row['split']}/truth"]
            assert len(wrong) == row['n'] and np.isclose(wrong.mean(), row['error']) and np.isclose(-p[f"{row['split']}/log_p"].mean(), row['nll'], atol=1e-5)
            truth = p[f"{row['split']}/truth"]
            by_class = [wrong[truth == k].mean() for k in np.unique(truth)]
            assert np.isclose(row['balanced_error'], np.mean(by_class)) and np.isclose(row['worst_class_error'], max(by_class))


def test_report_is_one_file_without_requests(done):
    page = (done[0]/'report'/'report.html').read_text()
    assert '<table' in page and 'data:image/svg+xml;base64,' in page
    assert 'src="http' not in page and 'href=' not in page and '<script' not in page
    assert {'report.md','curve.png','curve.svg','summary.csv','paired.csv'} <= {o.name for o in (done[0]/'report').iterdir()}
    assert (done[0]/'report'/'curve.png').read_bytes()[:4] == b'\x89PNG'


def test_second_call_does_nothing_and_another_plan_is_refused(done, capsys, tmp_path):
    out = tmp_path/'copy'
    shutil.copytree(done[0], out)
    before = {f: f.stat().st_mtime_ns for f in (out/'runs').rglob('*')}
    assert main(['study', *SMALL, '--out', str(out)]) == 0
    assert {f: f.stat().st_mtime_ns for f in (out/'runs').rglob('*')} == before
    capsys.readouterr()
    assert main(['study', '--seeds', '0,1', '--out', str(out)]) == 2
    err = capsys.readouterr().err
    assert 'another plan' in err and '--resume' in err and 'seeds' in err and err.count('\n') == 1
    assert main(['study', '--out', str(out), '--resume']) == 0, '--resume goes on with the stored plan'
    capsys.readouterr()
    assert main(['study', '--out', str(out), '--resume', '--seeds', '0,1']) == 2
    err = capsys.readouterr().err
    assert '--seeds' in err and 'no effect' in err and err.count('\n') == 1


# ---- a folder that grows, and one whose images have gone

SHORT = {'plain': dict(pretrain=asdict(Recipe(epochs=1)), transfer=asdict(Recipe(epochs=1)))}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    "Own images in folders, and a plan for them."
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    rng = np.random.default_rng(0)
    for c in ('x/a','x/b','y/c','y/d'):
        (tmp_path/'pics'/c).mkdir(parents=True)
        for i in range(12): Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(tmp_path/'pics'/c/f'{i}.bmp')
    return Plan(data='folder', data_args=dict(root=tmp_path/'pics', size=8), maps=('leaf',), transfers=('readout',), seeds=(0,), recipes=SHORT)


def _times(out): return {f: f.stat().st_mtime_ns for f in (out/'runs').rglob('*') if f.is_file()}


def test_a_finished_study_is_reported_without_its_images_and_never_mixed_with_others(photos, tmp_path, capsys):
    out,pics = tmp_path/'s',tmp_path/'pics'
    run(photos, out, workers=1, progress=False)
    table,times = collect(out),_times(out)
    pics.rename(tmp_path/'moved')
    assert collect(out).equals(table) and main(['report', str(out)]) == 0
    assert re.search('there is no .*pics.*--root.*granularity report', (main(['study','--resume','--out',str(out)]), capsys.readouterr().err)[1])
    assert main(['study','--resume','--out',str(out),'--root',str(tmp_path/'moved')]) == 0 and _times(out) == times, 'another place is no other data set'
    before = json.loads((out/'plan.json').read_text()) # as earlier versions wrote it
    (out/'plan.json').write_text(json.dumps(before | dict(runs=[{k: v for k,v in o.items() if k not in ('transfers','content')} for o in before['runs']])))
    run(replace(photos, data_args=dict(root=tmp_path/'moved', size=8)), out, workers=1, progress=False)
    assert _times(out) == times and json.loads((out/'plan.json').read_text())['runs'] == before['runs']
    (tmp_path/'moved').rename(pics)
    run(photos, out, workers=1, progress=False)
    a,b = pics/'x'/'a'/'0.bmp',pics/'y'/'d'/'0.bmp' # of one size, as all are
    was = a.read_bytes()
    a.write_bytes(b.read_bytes())
    with pytest.raises(StudyError, match="is done, but image files of 'folder' were replaced by others of the same names and sizes"): run(photos, out, workers=1, progress=False)
    a.write_bytes(was)
    run(photos, out, workers=1, progress=False)
    a.unlink()
    with pytest.raises(StudyError, match="label map 'direct', seed 0 is done, but the images of 'folder', or their labels, are others now"): run(photos, out, workers=1, progress=False)
    assert _times(out) == times and collect(out).equals(table)


def test_a_plan_with_more_of_everything_extends_the_folder(photos, tmp_path):
    out = tmp_path/'s'
    run(photos, out, workers=1, progress=False)
    table,times = collect(out),_times(out)
    more = replace(photos, maps=('depth 0','leaf'), seeds=(1,0), transfers=('readout','finetune'), recipes=SHORT | {'longer': dict(pretrain=asdict(Recipe(epochs=2)), transfer=asdict(Recipe(epochs=1)))})
    run(more, out, workers=2, progress=False)
    assert len(collect(out)) == 2*2*5*2 and times.items() <= _times(out).items() and load_plan(out).digest == more.digest
    assert table.merge(collect(out)).equals(table)
    for less in (photos, replace(more, seeds=(0,)), replace(more, threads=2), replace(more, recipes={'plain': more.recipes['longer']})):
        with pytest.raises(StudyError, match='another plan.*and more'): run(less, out, workers=1, progress=False)
    assert load_plan(out).digest == more.digest


@pytest.mark.parametrize('args,word', [
    (['study','--data','gliphs'], 'gliphs'), (['study','--levels','genus'], 'genus'), (['study','--levels','level:x'], 'level:x'), (['study','--levels','script,script'], 'twice'),
    (['study','--transfers','fine-tune'], 'fine-tune'), (['study','--seeds','0,one'], 'one'), (['study','--seeds','1.5'], '1.5'), (['study','--seeds','-1'], '-1'), (['study','--preset','huge'], 'huge'),
    (['study','--images','many'], 'many'), (['study','--device','cuda:99'], 'cuda:99'), (['study','--resume'], 'holds no study'), (['report','nowhere'], 'nowhere'), (['levels','--data','x'], "'x'"),
    (['study','--out','/dev/null/x'], '/dev/null'), (['stduy'], 'stduy'), ([], 'COMMAND')])
def test_bad_input_gets_one_line_and_exit_code_2(args, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try: code = main(args)
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2 and word in err and err.count('\n') == 1 and 'Traceback' not in err


def test_folder_with_other_things_is_refused(tmp_path, capsys):
    (tmp_path/'thesis.tex').write_text('x')
    assert main(['study', *SMALL, '--out', str(tmp_path)]) == 2
    assert 'thesis.tex' in capsys.readouterr().err
    (tmp_path/'thesis.tex').unlink()
    for text in ('x', '[]', '{"hello": 1}', '{"format": 1, "plan": {"seeds": 5}}', '{"format": 1, "plan": {"recipes": {"a": {"pretrain": {"epochs": "3"}, "transfer": {}}}}}'):
        (tmp_path/'plan.json').write_text(text)
        for args in (['study', *SMALL, '--out', str(tmp_path)], ['study', '--resume', '--out', str(tmp_path)], ['report', str(tmp_path)]):
            assert main(args) == 2
            err = capsys.readouterr().err
            assert 'plan.json' in err and err.count('\n') == 1


def _snapshot(folder): return {o: (o.lstat().st_mtime_ns, o.read_bytes() if o.is_file() else None) for o in [folder, *folder.rglob('*')]}


def _foreign(folder):
    "Names that are like ours, all of them somebody's."
    for name in ('proj/.tmp-x/a', '.tmp-abcdefgh/a', '.lock', '.writable', 'runs/.tmp-abcdefgh/a', 'proj/runs/.lock', 'report/report.md'):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text("somebody's")


def test_a_foreign_folder_is_refused_untouched(tmp_path, capsys):
    "A home, a folder of studies of which one is running, a folder with another plan, a file."
    home,others,file = tmp_path/'home',tmp_path/'studies',tmp_path/'file'
    _foreign(home)
    file.write_text('x')
    with locked_study(others/'x'), whole_file(others/'x'/'runs'/'a'/'w.txt') as writing:
        _foreign(others/'x')
        (others/'y').mkdir()
        write_whole(others/'y'/'plan.json', json.dumps(dict(format=1, plan=replace(tiny, seeds=(7,)).to_dict())))
        _foreign(others/'y')
        before = _snapshot(tmp_path)
        for out,word in ((home, 'not empty'), (others, 'not empty'), (others/'y', 'another plan'), (file, 'is a file')):
            assert main(['study', *SMALL, '--out', str(out)]) == 2
            err = capsys.readouterr().err
            assert word in err and str(out) in err and err.count('\n') == 1
        assert _snapshot(tmp_path) == before
        writing.write_text('x')


@contextmanager
def locked_study(folder):
    folder.mkdir(parents=True)
    with locked(folder/'.lock') as mine:
        assert mine
        yield


def test_a_start_removes_only_what_is_left_of_its_own(tmp_path):
    "Below runs/ and at its top, never what others write at that moment: the report beside it."
    out,rs = tmp_path/'s',runs(tiny)
    (out/'.tmp-mine').mkdir(parents=True)
    (out/'.lock').write_text("somebody's")
    (out/'.writable').write_text("somebody's")
    with _locked(out): _claim(out, tiny, rs)
    dies = "import os, sys; from granularity_nb.files import whole_file\nkept = [whole_file(o) for o in sys.argv[1:]]\nfor o in kept: o.__enter__()\nos._exit(9)"
    subprocess.run([sys.executable, '-c', dies, *(str(out/o) for o in ('plan.json', 'runs/a/result.json', 'other/a.txt'))])
    (tmp_path/'disk'/'.tmp-abcdefgh').mkdir(parents=True)
    (out/'runs'/'link').symlink_to(tmp_path/'disk')
    (out/'runs'/'.tmp-abcdefgh').mkdir()
    with whole_file(out/'report'/'report.html') as f:
        with _locked(out): _claim(out, tiny, rs)
        f.write_text('a page')
    left = {str(o.parent.relative_to(out)) for o in out.rglob('.tmp-*') if (o/'.granularity_nb').exists()}
    assert left == {'other'} and (out/'report'/'report.html').read_text() == 'a page'
    assert (tmp_path/'disk'/'.tmp-abcdefgh').exists() and (out/'runs'/'.tmp-abcdefgh').exists() and (out/'.tmp-mine').exists()
    assert [(out/o).read_text() for o in ('.lock','.writable')] == ["somebody's"]*2


def _mounted(options, folder, command):
    "Run `command` where `folder` is a small file system of its own, or skip."
    if not shutil.which('unshare'): pytest.skip('needs unshare (util-linux) to mount a small disk')
    script = f'mount -t tmpfs -o {options} none "$0" || exit 77; shift 0; exec "$@"'
    r = subprocess.run(['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', script, str(folder), *command], capture_output=True, text=True)
    if r.returncode == 77 or 'unshare' in r.stderr: pytest.skip(f'cannot mount a small disk here: {r.stderr.strip()}')
    return r


@pytest.mark.parametrize('options,word', [('size=300k', 'No space left'), ('ro', 'Read-only')])
def test_full_or_forbidden_disk_gets_one_line(options, word, tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    r = _mounted(options, disk, _study(disk/'study'))
    assert r.returncode == 2, r.stderr
    lines = [o for o in r.stderr.splitlines() if o.startswith('granularity:')]
    assert len(lines) == 1 and word in lines[0] and 'Traceback' not in r.stderr
    assert '1 of 3 runs failed' in lines[0] or 'ro' in options, 'a full disk must stop the study, not fail every run in turn'


def test_help_is_light():
    code = "import sys; from granularity_nb.cli import parser; parser().format_help(); print(sorted({'torch','fastai','pandas','numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    r = subprocess.run([sys.executable, '-m', 'granularity_nb.cli', '--help'], capture_output=True, text=True)
    assert r.returncode == 0 and 'study' in r.stdout and 'levels' in r.stdout


# ---- plans

tiny = Plan(data_args=dict(n_train=200, n_valid=50, n_test=50, max_chars=10), redraw=True)


@pytest.mark.parametrize('bad,word', [(dict(seeds=(0,True)), 'True'), (dict(seeds=(0,-1)), '-1'), (dict(maps=()), 'maps'), (dict(splits=('tset',)), 'tset'),
                                      (dict(maps=('direct',)), 'direct'), (dict(threads=0), 'threads'), (dict(recipes=tiny.recipes | {'again': tiny.recipes['plain']}), 'same'),
                                      (dict(recipes={'a': tiny.recipes['plain'] | dict(direct=dict(epochs=3))}), '14'), (dict(maps=('image:x',)), 'image:x'),
                                      (dict(recipes={'a': dict(pretrain=dict(lr=-1), transfer={})}), 'lr'), (dict(recipes={'a': {}}), "'a'"),
                                      (dict(recipes={'a': tiny.recipes['plain'] | dict(multi=dict(epochs=3))}), 'multi'),
                                      (dict(recipes={'a': dict(pretrain=dict(epochs=1, objective='semantic'), transfer=dict(epochs=1))}), 'semantic'),
                                      (dict(to='glyphs', transfers=('finetune',), recipes={'a': dict(pretrain=dict(epochs=1), transfer=dict(epochs=1, head='subclass-mean'))}), 'finetune'),
                                      (dict(maps=('level:9',), transfers=('finetune',), recipes={'a': dict(pretrain=dict(epochs=1), transfer=dict(epochs=1, head='subclass-mean'))}), 'level:9'),
                                      (dict(lrs={'probe': [.1]}), 'probe'), (dict(lrs={'direct': []}), 'direct'), (dict(lrs={'transfer': [.1,.1]}), 'transfer'), (dict(lrs={'transfer': [0.]}), 'transfer'),
                                      (dict(to='glyphs'), 'readout'), (dict(to_args=dict(n_train=10)), 'without `to`'), (dict(maps=('kmeans-within:many',)), 'many'),
                                      (dict(to='glyphs', transfers=('probe',), maps=('kmeans-within:20',)), 'kmeans'), (dict(maps=('kmeans-across:20',), transfers=('readout',)), 'kmeans-across'),
                                      (dict(maps=('kmeans-within:3',)), 'kmeans-within:3.*fewer'), (dict(maps=('kmeans-across:201',), transfers=('probe',)), 'kmeans-across:201.*more than the 200 images'),
                                      (dict(maps='script'), "maps must be a list, not 'script'"), (dict(maps={'script','kind'}), 'maps must be a list'), (dict(seeds=3), 'seeds must be a list, not 3'), (dict(maps=(1,)), 'label map 1 is no text'),
                                      (dict(data_args=None), 'data_args must be an object'), (dict(data_args=dict(n_train={1})), 'data_args.*JSON'), (dict(maps=('random-splits:²',)), '²'),
                                      (dict(maps=('random-groups:character',)), 'every draw')])
def test_bad_plans_are_named(bad, word):
    with pytest.raises(StudyError, match=word): runs(replace(tiny, **bad))


def test_arrays_ranges_and_paths_in_a_plan(tmp_path):
    a = replace(tiny, seeds=range(2), maps=['script'], data='folder', data_args=dict(root=tmp_path, size=np.int64(8)))
    b = replace(tiny, seeds=np.arange(2), maps=('script',), data='folder', data_args=dict(root=str(tmp_path), size=8))
    assert a == b and a.digest == b.digest and plan_from_dict(json.loads(json.dumps(a.to_dict()))) == a


def test_plan_json_round_trip_and_unknown_keys():
    for p in (*presets.values(), tiny): assert plan_from_dict(json.loads(json.dumps(p.to_dict()))) == p
    with pytest.raises(StudyError, match='colour'): plan_from_dict(dict(colour=1))


def test_a_run_is_its_config():
    a = runs(tiny)
    assert [r.id for r in a] == [r.id for r in runs(tiny)] and len({r.id for r in a}) == len(a)
    assert {r.id for r in a} < {r.id for r in runs(replace(tiny, maps=(*tiny.maps, 'kind')))}
    assert not {r.id for r in a} & {r.id for r in runs(replace(tiny, threads=2))}
    assert not {r.id for r in a} & {r.id for r in runs(replace(tiny, data_args=tiny.data_args | dict(n_train=201)))}


def test_direct_has_the_budget_of_pretraining_and_transfer():
    r = {o.map: o for o in runs(tiny)}
    for o in r.values():
        if o.map != 'direct': assert r['direct'].epochs['pretrain'] == o.epochs['pretrain']+o.epochs['finetune']


def test_presets_hold_what_they_promise():
    full,quick = preset('glyphs','full'),preset('glyphs','quick')
    assert len(quick.maps) >= 4 and len(quick.seeds) >= 2
    assert len([m for m in full.maps if not m.startswith('random')]) >= 7 and len(full.seeds) >= 5 and len(full.transfers) >= 3 and any(m.startswith('random') for m in full.maps)
    assert 'script' in full.maps and 'script' in quick.maps, 'target → target'
    for p in presets.values(): checked(p)
    assert not set(preset('glyphs','tune').seeds) & (set(full.seeds) | set(quick.seeds)), 'tuned on the seeds that are reported'


def test_random_controls():
    source = open_source(tiny, 0)
    like = source.level('base letter')
    g = label_map(source, 'random-groups:base letter', 3)
    assert g.n_classes == like.n_classes and g.refines(source.target) and source.level('character').refines(g)
    assert g == label_map(source, 'random-groups:base letter', 3) != label_map(source, 'random-groups:base letter', 4)
    s = label_map(source, 'random-splits:base letter', 3)
    assert s.n_classes == n_seen(source, like) == n_seen(source, s) and s.refines(source.target.after(source.leaf_map('train')))


def _source(paths, unit=None, **levels):
    h = Hierarchy.from_paths(paths)
    leaf = np.arange(40)%h.n_leaves
    return Source('mine', h, dict(train=Split(np.zeros((40,8,8), np.uint8), leaf)), h.depth(0), dict(leaf=h.level(0), **{k: h.at(o) for k,o in levels.items()}), unit=unit)


def test_a_control_that_is_what_it_controls_for_is_told():
    four = [f'{t}/{g}/{g}{i}' for t,gs in (('x','ab'), ('y','cd')) for g in gs for i in range(2)]
    s = _source(four, character=list('abcd'))
    with pytest.raises(StudyError, match='single leaf.*every draw'): label_map(s, 'random-groups:leaf')
    with warnings.catch_warnings(): # said of one seed below
        warnings.simplefilter('ignore')
        m = {seed: label_map(s, 'random-groups:character', seed) for seed in range(20)}
    same = [seed for seed,o in m.items() if o.refines(s.level('character'))]
    assert same and len(same) < 20, 'pairs of four leaves are drawn again by chance in one case of nine'
    with pytest.warns(UserWarning, match=f"'random-groups:character', seed {same[0]}: .* by chance those of 'character' itself"): label_map(s, 'random-groups:character', same[0])
    assert any(o.codes[0] != o.codes[1] for o in m.values()), 'a level that happens to be called character is no unit: its leaves are moved one by one'


def test_what_is_moved_as_a_whole_is_said_by_the_source():
    paths = [f'{t}/{g}{k}/{g}{k}{i}' for t,g in (('x','a'), ('y','b')) for k in range(4) for i in range(2)]
    pairs = _source(paths, unit='pair', pair=[f'{g}{k}' for g in 'ab' for k in range(4)], four=['x','y'])
    assert pairs.but(name='again').unit == 'pair'
    for seed in range(5):
        m = label_map(pairs, 'random-groups-across:four', seed)
        assert pairs.level('pair').refines(m)
    loose = _source(paths, pair=[f'{g}{k}' for g in 'ab' for k in range(4)], four=['x','y'])
    assert not all(loose.level('pair').refines(label_map(loose, 'random-groups-across:four', seed)) for seed in range(5))
    with pytest.raises(ValueError, match='pear'): _source(paths, unit='pear')


def test_a_level_called_image_is_not_taken_for_one_class_an_image():
    s = _source(['x/a','x/b','y/c'], image=['x','y'])
    with pytest.raises(StudyError, match='rename the level'): label_map(s, 'image')


def test_recipes_that_share_a_pretraining_share_the_run_and_keep_their_names(tmp_path):
    pre = dict(epochs=1)
    plan = replace(tiny, maps=('script',), transfers=('finetune',), seeds=(0,), recipes={'slow': dict(pretrain=pre, transfer=dict(epochs=1, lr=.01)), 'fast': dict(pretrain=pre, transfer=dict(epochs=1, lr=.2))})
    t = pd.read_parquet(run(plan, tmp_path/'s', workers=2, progress=False))
    assert len(list((tmp_path/'s'/'runs').iterdir())) == 2, 'one direct, one pretraining'
    tuned = t[(t.transfer == 'finetune') & (t.split == 'test')].set_index('recipe')
    assert set(tuned.index) == {'slow','fast'} and tuned.run.nunique() == 1 and tuned.nll.nunique() == 2


SCRIPT = """
from granularity_nb.study.plan import Plan
from granularity_nb.study.run import run
def start(folder): return run(Plan(data_args=dict(n_train=64, n_valid=10, n_test=10, max_chars=10), maps=('script',), transfers=('readout',), seeds=(0,)), folder, workers=2, progress=False)
"""
GUARDED = """
if __name__ == '__main__':
    import sys
    from multiprocessing import Pool
    with Pool(1) as pool: pool.map(start, sys.argv[1:])
"""


@pytest.mark.parametrize('how,word', [('guard', '__main__'), ('stdin', 'standard input'), ('pool', 'daemon')])
def test_where_no_worker_can_be_started_the_reason_is_given(how, word, tmp_path):
    "A script without a main guard, a script on standard input, a worker of a pool: not 'out of memory?'."
    text = SCRIPT+(GUARDED if how == 'pool' else f"start({str(tmp_path/'s')!r})")
    (tmp_path/'s.py').write_text(text)
    r = subprocess.run([sys.executable, *(['-'] if how == 'stdin' else [str(tmp_path/'s.py'), str(tmp_path/'s')])], input=text, capture_output=True, text=True, timeout=120)
    assert r.returncode and 'out of memory' not in r.stderr
    last, = {o for o in r.stderr.splitlines() if o.startswith('granularity_nb.study.plan.StudyError: ') or o.startswith('granularity_nb.study.run.WorkerError: ')}
    assert word in last and r.stderr.count('standard input' if how == 'stdin' else 'run was called') <= 3, r.stderr
    assert not (tmp_path/'s'/'runs').exists()


def test_how_a_worker_ended_is_said():
    assert 'out of memory' in _why_ended([-15, -9]) and 'Segmentation fault' in _why_ended([-9, -11, -15]) and 'signal 200' in _why_ended([-200]) and 'exit code 3' in _why_ended([0, 3, -15])
    assert 'out of memory' not in _why_ended([0, -15]) and '__main__' in _why_ended([-15, 78])


# ---- statistics

def _table(errors):
    "errors: {(label_map, transfer): one error a seed}"
    return pd.DataFrame([dict(recipe='r', label_map=m, n_classes=10, transfer=t, seed=s, split='test', n=100, error=e, nll=1., run='x') for (m,t),es in errors.items() for s,e in enumerate(es)])


def test_intervals_and_paired_tests_agree_with_scipy():
    from scipy import stats
    rng = np.random.default_rng(0)
    a,b,c = rng.normal(.2, .02, (3, 6))
    t = _table({('direct','direct'): a, ('x','finetune'): b, ('y','finetune'): c})
    m,h = mean_interval(a)
    assert np.allclose((m-h, m+h), stats.t.interval(.95, 5, a.mean(), stats.sem(a)))
    d = paired(t).set_index('label_map')
    ps = [stats.ttest_rel(o, a).pvalue for o in (b, c)]
    assert np.allclose(d.p[['x','y']], ps) and np.allclose(d.difference[['x','y']], [(b-a).mean(), (c-a).mean()])
    assert np.allclose(d.p_family[['x','y']], [min(1, 2*o) for o in ps]) and (d.family == 2).all()
    assert np.allclose(d.half[['x','y']], [stats.t.ppf(1-.05/4, 5)*stats.sem(o-a) for o in (b, c)])


def test_pairing_uses_common_seeds_only():
    t = _table({('direct','direct'): [.3,.2,.4], ('x','readout'): [.2,.1,.9]})
    t = t[~((t.label_map == 'x') & (t.seed == 2))]
    d = paired(t).iloc[0]
    assert d.seeds == 2 and np.isclose(d.difference, -.1)


def test_one_seed_has_no_interval_and_still_a_report_line():
    t = _table({('direct','direct'): [.3], ('x','readout'): [.2]})
    assert np.isnan(summary(t).half).all() and 'only seed' in findings(t)[0]


def _errors(**arms):
    "A study's table: errors of the seeds 0, 1, … of each label map; None where a run is missing."
    return pd.DataFrame([dict(recipe='plain', split='test', label_map=m, transfer='direct' if m == 'direct' else 'readout', n_classes=2, n=100, seed=s, error=e)
                         for m,es in arms.items() for s,e in enumerate(es) if e is not None])


def test_levels_are_compared_over_the_same_seeds():
    "Seed 0 is an easy one, and the last level has run for it alone."
    said, = findings(_errors(direct=[.1,.3,.3], a=[.05,.2,.22], b=[.08,None,None]))
    assert 'best is a' in said and 'Not among them, for want of some of its 3 seeds: b.' in said
    said, = findings(_errors(direct=[.1,.3,.3], a=[.05,.2,None], b=[None,.3,.4], c=[.06,.3,None]))
    assert 'best is a' in said and '2 seeds: b.' in said
    said, = findings(_errors(direct=[.1,.3], a=[.2,.2], b=[.05,.2]))
    assert 'best is b' in said and 'Not among' not in said


def test_equal_differences_are_not_called_certain():
    t = _table({('direct','direct'): [.3,.2], ('x','readout'): [.2,.1]})
    assert np.isnan(paired(t).p).all() and 'no test' in findings(t)[0]


def test_a_lucky_best_of_many_is_not_called_a_difference():
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(40): # no label map differs from direct training
        t = _table({('direct','direct'): rng.normal(.2, .01, 5)} | {(f'm{i}', 'finetune'): rng.normal(.2, .01, 5) for i in range(12)})
        wrong += 'lower than direct' in findings(t)[0]
    assert wrong <= 6 # 5 % expected; 7 or more of 40 happen with probability .003


def test_curve_shows_every_level_and_the_baseline():
    t = _table({('direct','direct'): [.3,.31,.3], ('x','readout'): [.2,.21,.2], ('random-groups:x','readout'): [.25,.26,.25]})
    ax = curve(t, 'r')
    labels = [o.get_text() for o in ax.get_xticklabels()]
    assert any(o.startswith('x\n') for o in labels) and {'readout','direct training'} <= set(ax.get_legend_handles_labels()[1])

def test_transfers_that_a_label_map_forbids_are_left_out(tmp_path):
    "A map that crosses the target cannot be read out; everything else of the plan is run and reported."
    plan = Plan(data='glyphs', data_args=dict(n_train=200, n_valid=100, n_test=100, max_chars=4), maps=('script','random-groups-across:base letter'), transfers=('readout','finetune'), seeds=(0,),
                recipes={'plain': dict(pretrain=asdict(Recipe(epochs=1)), transfer=asdict(Recipe(epochs=1)))})
    with pytest.warns(UserWarning, match="random-groups-across:base letter.*readout left out"): rs = runs(plan)
    assert {r.map: r.transfers for r in rs} == {'direct': ('direct',), 'script': ('readout','finetune'), 'random-groups-across:base letter': ('finetune',)}
    with pytest.raises(StudyError, match="random-groups-across:base letter.*readout cannot be done; add 'probe' or 'finetune' with a fresh head"): runs(replace(plan, transfers=('readout',)))
    with pytest.warns(UserWarning): table = pd.read_parquet(run(plan, tmp_path/'s', workers=1))
    assert set(zip(table.label_map, table.transfer)) == {('direct','direct'), ('script','readout'), ('script','finetune'), ('random-groups-across:base letter','finetune')}
    assert (report(tmp_path/'s').parent/'report.md').exists()


# ---- learning rates, clusters, another data set

BOTH = replace(tiny, maps=('kmeans-within:24','kmeans-across:24','script'), transfers=('probe','finetune'), seeds=(0,), lrs=dict(direct=(.03,.3), transfer=(.03,.3)),
               recipes={'plain': dict(pretrain=asdict(Recipe(epochs=1)), transfer=asdict(Recipe(epochs=1)))})


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('study')/'both'
    return folder, pd.read_parquet(run(BOTH, folder, workers=2, progress=False))


def test_settings_that_are_not_used_do_not_make_another_plan():
    assert not {'lrs','to','to_args'} & set(tiny.to_dict())
    assert len({p.digest for p in (tiny, replace(tiny, lrs=dict(direct=[.1])), replace(tiny, to='digits'), replace(tiny, to='digits', to_args=dict(n_train=5)))}) == 4
    assert replace(tiny, to='digits', to_args=dict(root='a')).digest == replace(tiny, to='digits', to_args=dict(root='b')).digest
    a,b = runs(tiny),runs(replace(tiny, lrs=dict(transfer=[.1])))
    assert [r.id for r in a] == [r.id for r in b] and a[0].transfer != b[0].transfer, 'a pretraining does not depend on how its transfers are tuned'


def test_every_arm_keeps_the_rate_that_is_best_on_validation_images(both):
    folder,table = both
    arms = {(r.map, how): folder/'runs'/r.id/'transfers' for r in runs(BOTH) for how in r.transfers}
    seen = 0
    for row in table.itertuples():
        d = next(arms[row.label_map, row.transfer].glob(f'{row.transfer}-*'))
        if row.transfer == 'probe':
            assert pd.isna(row.lr) and pd.isna(row.lr_place) and not (d/'tried.json').exists()
            assert row.C in C_grid and row.C_place == grid_place(row.C, C_grid) and row.C_converged in (True, False)
            continue
        tried = json.loads((d/'tried.json').read_text())
        assert [o['lr'] for o in tried] == [.03, .3]
        assert row.lr == min(tried, key=lambda o: (o['error'], o['nll']))['lr']
        assert row.lr_place == ('lowest' if row.lr == .03 else 'highest') and pd.isna(row.C) and pd.isna(row.C_place)
        seen += 1
    assert seen == 4*len(set(table.split)) == 8
    assert not list(folder.rglob('tried/*')), 'what was only tried is not kept'


def test_the_kept_baseline_is_the_one_that_was_chosen(both):
    folder,table = both
    r = runs(BOTH)[0]
    source = open_source(BOTH, 0)
    ckpt = load_checkpoint(folder/'runs'/r.id)
    row = table[table.label_map == 'direct'].iloc[0]
    assert ckpt.info['recipe']['lr'] == row.lr
    tried = {o['lr']: o for o in json.loads((folder/'runs'/r.id/'tried.json').read_text())}
    assert evaluate(ckpt.model, source, source.target, 'valid', device='cpu').error == tried[row.lr]['error']
    p = load_predictions(next((folder/'runs'/r.id/'transfers').glob('direct-*'))/'predictions.npz')['test']
    assert (p.error, p.top_error(5), p.ece()) == (row.error, row.top5_error, row.ece)


def test_clusters_are_those_of_the_baselines_features(both):
    from sklearn.cluster import KMeans
    from granularity_nb.data.block import dataloaders
    folder,table = both
    rs = {r.map: r for r in runs(BOTH)}
    source = open_source(BOTH, 0)
    target = source.target_for(load_checkpoint(folder/'runs'/rs['kmeans-within:24'].id).label_map)
    m = {k: load_checkpoint(folder/'runs'/rs[f'kmeans-{k}:24'].id).label_map for k in ('within','across')}
    assert all(o.n_classes == 24 for o in m.values()) and m['within'].refines(target) and not m['across'].refines(target)
    assert set(table.n_classes[table.label_map.str.startswith('kmeans')]) == {24}
    import torch
    net = load_checkpoint(folder/'runs'/rs['direct'].id).model.backbone.eval()
    dl = dataloaders(source, source.target, bs=64, device='cpu').train.new(shuffle=False)
    with torch.no_grad(): x = torch.cat([net(b[0]) for b in dl]).numpy()
    def spread(codes): return sum(((x[codes == c]-x[codes == c].mean(0))**2).sum() for c in np.unique(codes))
    best = KMeans(24, n_init=1, random_state=0).fit(x).inertia_
    assert spread(m['across'].codes) < 1.15*best, 'as tight as clusters of the same features are'
    assert spread(np.random.RandomState(0).permutation(m['across'].codes)) > 1.5*best, 'and a shuffle is not'


def test_clusters_wait_for_their_features(tmp_path):
    direct,within,*_ = runs(BOTH)
    assert within.config['features'] == direct.id
    ready,waiting = _queue([within, direct])
    assert list(ready) == [[direct]] and waiting == {direct.id: [[within]]}, 'whatever their order'
    assert list(_queue([within])[0]) == [[within]], 'its features are there'
    with pytest.raises(StudyError, match='direct run'): execute(BOTH, within, tmp_path)
    other = runs(replace(BOTH, lrs=dict(direct=[.1])))[1]
    assert other.id != within.id and other.config['digest'] != within.config['digest'], 'another baseline has other clusters'
    s = open_source(BOTH, 0)
    assert label_map(s, 'kmeans-across:base letter', features=np.random.RandomState(0).rand(200, 3)).n_classes == n_seen(s, s.level('base letter'))


def test_a_kill_among_the_tried_rates_repeats_none_that_is_done(both, tmp_path):
    from granularity_nb.training.pretrain import pretrain
    source,_ = _opened(json.dumps(BOTH.to_dict()), 0)
    calls = []
    def train(folder, recipe, killed=False):
        calls.append(recipe.lr)
        if killed and recipe.lr == .3: raise KeyboardInterrupt
        return pretrain(source, source.target, folder, recipe, 0, device='cpu', progress=False)
    recipe = Recipe.from_dict(runs(BOTH)[0].config['recipe'])
    with pytest.raises(KeyboardInterrupt): _pretrain_best(lambda f, r: train(f, r, True), tmp_path, recipe, [.03,.3], source, 'cpu')
    _pretrain_best(train, tmp_path, recipe, [.03,.3], source, 'cpu')
    assert calls == [.03, .3, .3]
    assert not (tmp_path/'tried').exists()
    alone = both[0]/'runs'/runs(BOTH)[0].id
    assert json.loads((tmp_path/'tried.json').read_text()) == json.loads((alone/'tried.json').read_text())
    assert (tmp_path/'model.safetensors').read_bytes() == (alone/'model.safetensors').read_bytes()


def test_of_the_tried_rates_only_our_own_files_are_removed(both, tmp_path):
    source,_ = _opened(json.dumps(BOTH.to_dict()), 0)
    (tmp_path/'disk').mkdir()
    (tmp_path/'disk'/'model.safetensors').write_text("somebody's")
    (tmp_path/'run'/'tried'/'lr-0.03').mkdir(parents=True)
    (tmp_path/'run'/'tried'/'lr-0.3').symlink_to(tmp_path/'disk')
    (tmp_path/'run'/'tried'/'notes.md').write_text("somebody's")
    for lr,error in ((.03, .1), (.3, .2)): (tmp_path/'run'/'tried'/f'lr-{lr}'/'valid.json').write_text(json.dumps(dict(lr=lr, error=error, nll=1.)))
    for name in ('metrics.csv','model.safetensors','checkpoint.json'): (tmp_path/'run'/'tried'/'lr-0.03'/name).write_text(name)
    _pretrain_best(None, tmp_path/'run', Recipe(), [.03,.3], source, 'cpu')
    assert [(tmp_path/'run'/o).read_text() for o in ('metrics.csv','model.safetensors','checkpoint.json')] == ['metrics.csv','model.safetensors','checkpoint.json']
    assert sorted(o.name for o in (tmp_path/'run'/'tried').iterdir()) == ['lr-0.3','notes.md'] and (tmp_path/'disk'/'model.safetensors').read_text() == "somebody's"


def test_a_failure_is_not_stored_as_divergence(tmp_path):
    from granularity_nb.training.recipe import TrainingError
    source,_ = _opened(json.dumps(BOTH.to_dict()), 0)
    def train(folder, recipe): raise TrainingError('out of memory')
    with pytest.raises(TrainingError, match='out of memory'): _pretrain_best(train, tmp_path, Recipe.from_dict(runs(BOTH)[0].config['recipe']), [.03,.3], source, 'cpu')
    assert not list(tmp_path.rglob('*.json')), 'it would never be tried again'


def test_a_rate_that_diverges_is_listed_and_only_all_of_them_stop_the_arm(tmp_path):
    wild = replace(BOTH, maps=('script',), transfers=('probe',), lrs=dict(direct=[.1, 1e9]))
    t = pd.read_parquet(run(wild, tmp_path/'a', workers=1, progress=False))
    assert t[t.label_map == 'direct'].lr.unique().item() == .1
    with pytest.raises(StudyError, match='diverged with every learning rate'): run(replace(wild, lrs=dict(direct=[1e8, 1e9])), tmp_path/'b', workers=1, progress=False)
    assert set(pd.read_parquet(tmp_path/'b'/'results.parquet').label_map) == {'script'}, 'the others are kept'


def _of_families(names, transfers=('readout','finetune'), seeds=3):
    rows = [('direct', 16, 'direct'), *((n, k, how) for n,k in names.items() for how in transfers)]
    return pd.DataFrame([dict(recipe='plain', split='test', label_map=n, n_classes=k, transfer=how, seed=seed, n=100, error=.3+.01*seed+k/1e5) for n,k,how in rows for seed in range(seeds)])


NAMED,CUTS,MARKS = {'leaf': 200, 'superclass': 16}, {'level 2 longest': 120, 'level 1 longest': 160, 'level:1': 170, 'depth 7 longest': 70}, {'random-splits:800': 800, 'kmeans-across:200': 200, 'kmeans-within:200': 200, 'image': 900}


def _lines(ax): return {tuple(map(float, o.get_xdata())) for o in ax.lines if o.get_linestyle() != 'None' and len(o.get_xdata()) > 1 and o.get_label() != 'direct training'}


def test_families_of_label_maps_have_lines_of_their_own():
    assert len(figure(_of_families(NAMED | {'level 2 longest': 120} | MARKS)).axes) == 1, 'a single family is drawn beside the levels with a name'
    fig = figure(_of_families(NAMED | CUTS | MARKS))
    assert [ax.get_title() for ax in fig.axes] == ['readout','finetune'] and fig.get_suptitle() == 'n = 3 seeds; bars and band: 95 % intervals'
    assert _lines(fig.axes[0]) == {(16., 200.), (120., 160.), (160., 200.), (170., 200.), (70., 200.)}, 'neither controls nor one class an image are on a line'
    marks = sorted(float(x) for o in fig.axes[0].lines if o.get_linestyle() == 'None' and o.get_marker() in '*hXH' for x in o.get_xdata())
    assert marks == pytest.approx([200, 212, 800, 900]), 'marks stand at their number of classes, and beside each other if it is the same'
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['direct training','levels with a name','depth k longest','level k longest','level:k','random splits (control)','k-means within targets (control)','k-means across (control)','one class an image']


def test_lines_of_families_do_not_turn_back_to_a_coarser_level():
    assert _lines(figure(_of_families({'superclass': 16} | CUTS)).axes[0]) == {(120., 160.)}
    assert (144., 200.) not in _lines(figure(_of_families({'a': 144, 'level:0': 200, 'depth:1': 20})).axes[0])


def test_panels_of_families_are_complete():
    three = figure(_of_families(NAMED | CUTS, ('readout','probe','finetune')))
    assert [ax.get_visible() for ax in three.axes] == [True]*3+[False] and [ax.get_xlabel() for ax in three.axes[:3]] == ['','pretraining classes','pretraining classes']
    some = pd.concat([_of_families(NAMED | CUTS), _of_families({'level 3 longest': 90}, seeds=2).query("label_map != 'direct'")])
    fig = figure(some)
    assert fig.get_suptitle() == 'n = 2 to 3 seeds; bars and band: 95 % intervals, the range of two seeds'
    wide = figure(some.assign(error=[e/20 if m == 'leaf' else e for e,m in zip(some.error, some.label_map)]))
    assert [ax.get_yscale() for ax in fig.axes+wide.axes] == ['linear']*2+['log']*2
    several = figure(pd.concat([some, some.assign(recipe='other')]))
    assert [ax.get_title() for ax in several.axes] == [f"{how}, recipe '{r}', split 'test'" for r in ('plain','other') for how in ('readout','finetune')]


def test_the_table_of_differences_takes_any_reference():
    t = _of_families({'leaf': 200, 'superclass': 16})
    t['error'] += [.02*(m == 'superclass') for m in t.label_map]
    own = paired_table(t, 'plain', 'test', 'leaf')
    assert own['label map'].tolist() == ['superclass'] and own.finetune.item() == '1.8 ± ?' # .02 less 184/1e5 in each seed: a spread that nobody knows
    assert set(paired_table(t, 'plain', 'test')['label map']) == {'leaf','superclass'}


def test_a_forest_plot_has_a_row_for_each_label_map_and_no_dot_where_nothing_was_run():
    t = _of_families({'leaf': 200, 'superclass': 16, 'level:1': 150}).query("label_map != 'level:1' or transfer != 'readout'")
    t = t[(t.label_map != 'superclass') | (t.seed < 2)]
    fig = forest_plot(t, 'plain', 'test', 'leaf')
    dots = {ax.get_title(): sorted(float(y) for o in ax.lines if o.get_marker() in 'os^D' for y in o.get_ydata()) for ax in fig.axes}
    assert [o.get_text() for o in fig.axes[0].get_yticklabels()] == ['level:1 (150)','superclass (16)'] and dots == {'readout': [1.], 'finetune': [0., 1.]}
    assert fig.get_suptitle().startswith('paired over 2–') and "'leaf'" in fig.get_supxlabel()


def test_an_empty_table_is_not_drawn():
    with pytest.raises(StudyError, match='no results'): figure(pd.DataFrame())


def test_the_recipe_for_an_accelerator_runs(tmp_path):
    p = presets['tiny-imagenet', 'gpu']
    recipe = {k: r | dict(epochs=1, bs=8) for k,r in p.recipes['plain'].items()}
    plan = replace(p, data='glyphs', data_args=tiny.data_args | dict(n_train=20, n_valid=10, n_test=10, max_chars=2), maps=('script',), seeds=(0,), device='cpu', recipes={'plain': recipe})
    t = pd.read_parquet(run(plan, tmp_path/'a', workers=1, progress=False))
    assert set(t.transfer) == {'direct', *p.transfers} and t[t.transfer == 'direct'].lr.unique().item() in p.lrs['direct']
    model = load_checkpoint(tmp_path/'a'/'runs'/runs(plan)[0].id).model
    assert model.head.in_features == 512
    colour = create_backbone(recipe['pretrain']['backbone'], 3)
    assert colour.conv1.stride == (1,1) and isinstance(colour.maxpool, torch.nn.Identity) and colour(torch.rand(2, 3, 32, 32)).shape == (2,512)


def test_transfer_to_another_data_set(tmp_path):
    plan = replace(BOTH, maps=('script','base letter'), lrs={}, data_args=tiny.data_args | dict(faces=['sans']), to='glyphs', to_args=tiny.data_args | dict(faces=['serif']))
    rs = runs(plan)
    there = Plan(data='glyphs', data_args=plan.to_args, redraw=True, seeds=(0,), recipes=BOTH.recipes, maps=('script',), transfers=('probe',))
    assert rs[0].id == runs(there)[0].id, 'the baseline knows the other data set only'
    t = pd.read_parquet(run(plan, tmp_path/'s', workers=2, progress=False))
    assert set(zip(t.label_map, t.transfer)) == {('direct','direct')} | {(m, how) for m in plan.maps for how in plan.transfers}
    ckpt,target = load_checkpoint(tmp_path/'s'/'runs'/rs[1].id),open_source(there, 0)
    assert not set(ckpt.info['data_args']['faces']) & set(target.args['faces'])
    p = load_predictions(next((tmp_path/'s'/'runs'/rs[1].id/'transfers').glob('probe-*'))/'predictions.npz')['test']
    assert (p.truth == target.target.encode(target.split('test').leaf)).all(), 'tested on the other data set'


def test_maps_with_several_classes_a_leaf_may_have_a_recipe_of_their_own():
    from granularity_nb.data.source import Source, register
    from granularity_nb.labels.hierarchy import Hierarchy
    h = Hierarchy.from_edges([('dog','pet'), ('dog','canine'), ('cat','pet'), ('wolf','canine'), ('pet','all'), ('canine','all')])
    split = lambda n: (np.zeros((n,8,8), np.uint8), np.arange(n)%3)
    from granularity_nb.data.source import Split
    register('pets')(lambda: Source('pets', h, {k: Split(*split(12)) for k in ('train','valid','test')}, h.level(0)))
    plain = dict(pretrain=dict(epochs=1), transfer=dict(epochs=1))
    own = plain | dict(multi=dict(epochs=1, objective='sigmoid:sum', prior_bias=True))
    plans = [Plan(data='pets', maps=('level:0','level:1'), transfers=('probe',), seeds=(0,), recipes={'r': r}) for r in (plain, own)]
    a,b = ({r.map: r for r in runs(p)} for p in plans)
    assert a['level:0'].id == b['level:0'].id and a['level:1'].id != b['level:1'].id and a['direct'].id == b['direct'].id
    assert b['level:1'].config['recipe']['objective'] == 'sigmoid:sum'


def test_a_split_that_the_other_data_set_lacks_is_left_out_of_a_preset():
    from granularity_nb.cli import _plan, parser
    for to,splits in (('digits', ('test',)), ('glyphs', ('test','shifted'))):
        plan = _plan(parser().parse_args(['study','--to',to,'--transfers','probe']))
        assert plan.splits == splits and runs(plan)


def test_fewer_images_keep_the_other_steps():
    from granularity_nb.cli import _plan, parser
    of = lambda *words: _plan(parser().parse_args(['study','--data','tiny-imagenet','--images','50',*words])).data_args['steps']
    assert of() == [['subsample', dict(n=50)]] and of('--set','steps=[["label_noise",{"rate":0.5}]]') == [['label_noise', dict(rate=.5)], ['subsample', dict(n=50)]]


def test_a_lost_gpu_ends_a_study_and_a_full_one_does_not():
    assert [_fatal(o) for o in (OSError(), RuntimeError('CUDA error: an illegal memory access'), RuntimeError('CUDA error: out of memory'), ValueError('x'))] == [True, True, False, False]


def test_steps_are_drawn_anew_with_the_seed():
    plan = replace(tiny, data_args=tiny.data_args | dict(steps=[['subsample', dict(n=50)]]), seeds=(0,1))
    a,b = (open_source(plan, s) for s in (0,1))
    assert a.args['seed'] == b.args['seed'] and a.args['steps'] != b.args['steps'] and len(a.split('train')) == 50
    assert (a.split('train').images[:] != b.split('train').images[:]).any()


def test_what_is_left_out_is_said_in_one_line(tmp_path, capsys):
    assert main(['study','--levels','random-groups-across:base letter','--transfers','readout,probe','--seeds','0','--images','200','--workers','1','--out',str(tmp_path/'s')]) == 0
    err = [o for o in capsys.readouterr().err.splitlines() if 'random-groups-across:base letter' in o]
    assert len(err) == 1 and err[0].startswith('granularity: note: ') and 'readout left out' in err[0] and 'plan.py' not in err[0]


def test_rates_and_another_data_set_on_the_command_line(tmp_path, capsys):
    out = tmp_path/'s'
    args = ['study','--levels','script','--transfers','probe','--seeds','0','--images','200','--workers','1','--lrs','0.1,0.3','--to','glyphs','--to-set','n_train=100','--to-set','n_test=100','--out',str(out)]
    assert main(args) == 0
    plan = load_plan(out)
    assert plan.lrs == dict(direct=[.1,.3]) and plan.to == 'glyphs' and plan.to_args == dict(n_train=100, n_test=100)
    for bad,word in ((['--lrs','a'], "'a'"), (['--lrs','0'], '0'), (['--to','digts'], 'digts'), (['--to','glyphs','--transfers','readout'], 'readout')):
        try: code = main(['study', *bad, '--out', str(tmp_path/'t')])
        except SystemExit as e: code = e.code
        err = capsys.readouterr().err
        assert code == 2 and word in err and err.count('\n') == 1


# ---- many runs

def _counted(monkeypatch, module, name):
    "How often a function is called from now on."
    f,calls = getattr(module, name),[]
    monkeypatch.setattr(module, name, lambda *args: calls.append(args) or f(*args))
    return calls


def test_each_run_is_hashed_and_looked_up_once_and_polls_see_only_those_in_work(tmp_path, monkeypatch):
    "Ten thousand runs were an hour of silence when every one was hashed for every other."
    import granularity_nb.study.plan as planning, granularity_nb.study.run as running
    def outcomes(plan, rs, folder, workers, said):
        for r in rs:
            yield [r]
            yield r, None
    monkeypatch.setattr(running, '_outcomes', outcomes)
    hashes,looks = _counted(monkeypatch, planning, '_digest'),_counted(monkeypatch, running, '_done')
    plan = replace(tiny, redraw=False, seeds=range(50), maps=('script','base letter'), transfers=('readout','finetune'))
    run(plan, tmp_path/'s', workers=2, progress=False)
    n = 3*50
    assert len(json.loads((tmp_path/'s'/'plan.json').read_text())['runs']) == n
    assert len(hashes) <= 2*n+10, 'a run and its transfers, and the plan itself'
    assert len(looks) == 3*n, 'one at the start, one while it is in work, one when it has ended'


def test_a_probe_with_another_grid_is_another_result(monkeypatch):
    "A folder that an earlier version has begun is not filled up with probes that tried other Cs."
    import granularity_nb.study.plan as planning
    plan = replace(tiny, transfers=('readout','probe','finetune'))
    headed = replace(plan, recipes={'plain': dict(pretrain=asdict(Recipe(epochs=1)), transfer=asdict(Recipe(epochs=1, head='probe')))})
    now = [runs(o)[-1].transfer_ids for o in (plan, headed)]
    monkeypatch.setattr(planning, 'C_grid', (.01, .1, 1.))
    then = [runs(o)[-1].transfer_ids for o in (plan, headed)]
    assert [{k for k in a if a[k] != b[k]} for a,b in zip(now, then)] == [{'probe'}, {'probe','finetune'}]


def test_the_next_job_is_found_without_looking_at_all_others(monkeypatch):
    rs = runs(replace(BOTH, redraw=False, seeds=range(5), maps=('kmeans-within:24','script')))
    ready,waiting = _queue(rs[::-1])
    assert [same[0].map for same in ready] == ['script','direct']*5 and [waiting[r.id][0][0].map for r in rs if r.map == 'direct'] == ['kmeans-within:24']*5


def test_images_that_no_seed_changes_are_opened_once(tmp_path, monkeypatch):
    import granularity_nb.study.run as running
    plan = replace(tiny, redraw=False, seeds=(0,1,2), maps=('script',))
    opened = _counted(monkeypatch, running, 'open_source')
    for o in ('_pretrain_step','_transfer_step'): monkeypatch.setattr(running, o, lambda *args: None)
    for r in runs(plan): execute(plan, r, tmp_path)
    assert len(opened) == 1


# ---- processes

def test_ctrl_c_ends_a_study_whose_worker_is_stopped(tmp_path):
    "Stopped (SIGSTOP, a debugger, a laptop's lid), it hears of no polite request."
    import psutil
    out = tmp_path/'s'
    p = subprocess.Popen(_study(out, '--preset', 'full', '--seeds', '0,1,2'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # tests that run in the background ignore it
    try:
        while not list((out/'runs').glob('*/metrics.csv')) and p.poll() is None: time.sleep(.05)
        workers = [o for o in psutil.Process(p.pid).children(recursive=True) if 'forkserver' in ' '.join(o.cmdline()) and not o.children()]
        assert workers
        for o in workers: o.suspend()
        p.send_signal(signal.SIGINT)
        assert p.wait(timeout=90) == 130
        assert p.stderr.read().strip() == 'granularity: stopped; what is done is kept, the same command goes on'
        assert not psutil.wait_procs(workers, timeout=30)[1]
    finally:
        for o in psutil.Process(p.pid).children(recursive=True) if p.poll() is None else []: o.kill()
        p.kill()


def test_a_folder_is_where_it_was_when_the_study_began(photos, tmp_path, monkeypatch):
    "A relative one, and that of the images, whatever happens to the working directory meanwhile; the cache is the one that is set now."
    (tmp_path/'here').mkdir(); (tmp_path/'there').mkdir()
    (tmp_path/'pics').rename(tmp_path/'here'/'pics')
    monkeypatch.chdir(tmp_path/'here')
    done = threading.Event()
    def moves(): # to and fro, while the parent waits for its workers
        while not done.wait(.02):
            if Path('s/runs').exists() or Path('../here/s/runs').exists(): os.chdir(tmp_path/'there')
    t = threading.Thread(target=moves)
    t.start()
    try: table = run(replace(photos, data_args=dict(root='pics', size=8), seeds=(0,1)), 's', workers=2, progress=False)
    finally:
        done.set()
        t.join()
    assert table == tmp_path/'here'/'s'/'results.parquet' and len(pd.read_parquet(table)) == 2*2*2
    assert os.getcwd() == str(tmp_path/'there') and not list((tmp_path/'there').iterdir())
    assert load_plan(tmp_path/'here'/'s').data_args['root'] == str(tmp_path/'here'/'pics'), 'it can be continued from anywhere'
    assert list((tmp_path/'cache').rglob('*')), 'images are kept where they are to be now, not where an earlier study had them'


def test_what_workers_warn_of_is_heard_once(tmp_path):
    "Also of a run that fails; not what other libraries say, nor again what was said when the study was planned."
    plan = replace(BOTH, maps=('script','base letter'), transfers=('probe','finetune'), lrs=dict(transfer=(1e-4,1e-3,1e-2)), recipes=SHORT)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        run(plan, tmp_path/'s', workers=2, progress=False)
    texts = [str(o.message) for o in said]
    assert sum('at the end of those tried' in o for o in texts) >= 1 and len(texts) == len(set(texts)), texts
    assert all('granularity_nb' in o.filename for o in said)


def test_warnings_of_a_worker_come_with_its_result_or_its_error():
    with _heard() as said:
        for _ in range(2): warnings.warn('ours', SourceWarning)
        warnings.warn('of another library')
    assert list(said) == ['ours'] and said['ours'][0] is SourceWarning
    told = {'planned'}
    with pytest.warns(SourceWarning, match='ours') as w: _tell(said | {'planned': said['ours']}, told)
    assert len(w) == 1 and told == {'ours','planned'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _tell(said, told)


class Odd(Exception):
    "Like some of other libraries, it cannot be made again from its text."
    def __init__(self, what, *, why): super().__init__(f'{what}: {why}')


def test_an_error_that_cannot_be_sent_is_sent_as_text(tmp_path, monkeypatch):
    "A pool that cannot read its answer breaks, and says so of a worker."
    import pickle, granularity_nb.study.run as running
    def fails(*args):
        warnings.warn('half of it was there', SourceWarning)
        raise Odd('the disk', why='is gone')
    monkeypatch.setattr(running, 'execute', fails)
    with pytest.raises(Exception) as e: running.execute_all(None, [None], tmp_path)
    again = pickle.loads(pickle.dumps(e.value))
    assert str(again) == 'Odd: the disk: is gone' and list(again.said) == ['half of it was there']
    monkeypatch.setattr(running, 'execute', lambda *args: (_ for _ in ()).throw(StudyError('as it is')))
    with pytest.raises(StudyError, match='^as it is$'): running.execute_all(None, [None], tmp_path)


def test_a_run_in_this_process_leaves_it_as_it_was(tmp_path):
    import random, torch._dynamo # which sets a variable when it is imported
    plan = replace(tiny, maps=('script',), transfers=('probe',), seeds=(0,), recipes=SHORT, threads=1)
    def state(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, dict(os.environ)
    threads = torch.get_num_threads()
    torch.set_num_threads(2); torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark = False,True
    try:
        before = state()
        execute(plan, runs(plan)[1], tmp_path/'s')
        assert state() == before
    finally:
        torch.set_num_threads(threads); torch.backends.cudnn.benchmark = False
