"The command line at its edges: names that are nearly right, terminals of other encodings, readers that stop, names that would command the terminal."
import codecs, io, json, os, re, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from granularity_nb import cli
from granularity_nb.cli import _plan, main, parser
from granularity_nb.study.plan import StudyError

SMALL = ['--set', 'n_train=60', '--set', 'n_valid=40', '--set', 'n_test=40', '--set', 'max_chars=5']


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Not in a checkout, whose studies/ may hold a study of somebody's."
    monkeypatch.chdir(tmp_path)


def _call(capsys, *args):
    "(exit code, stdout, stderr)"
    try: code = main([str(o) for o in args])
    except SystemExit as e: code = e.code
    return (code, *capsys.readouterr())


def _refused(capsys, *args):
    code,_,err = _call(capsys, *args)
    assert code == 2 and len([o for o in err.splitlines() if o.startswith('granularity') and 'note' not in o]) == 1
    return err


# ---- words

@pytest.mark.parametrize('args,word', [(['study','--lr','0.1'], '--lr (did you mean --lrs?)'), (['levels','--dat','glyphs'], '--dat (did you mean --data?)'), (['study','--seed','3'], '--seed (did you mean --seeds?)'), (['report','--all','x'], '--all'), (['theory','--k','4','extra'], 'extra'),
                                       (['study','--preset','qick'], "'qick' for 'glyphs' (did you mean 'quick'?)"), (['levels','--data','foldr'], "(did you mean 'folder'?)"), (['study','--to','digit'], "(did you mean 'digits'?)"), (['study','--levels','base lettr'], "(did you mean 'base letter'?)"),
                                       (['study','--transfers','finetun'], "(did you mean 'finetune'?)")])
def test_no_name_is_taken_for_another(args, word, capsys): assert word in _refused(capsys, *args)


@pytest.mark.parametrize('args,word', [(['--seeds','1_0'], "'1_0'"), (['--seeds','１'], '１'), (['--seeds','9'*5000], '9999'), (['--images','²'], '²'), (['--levels',' , '], "' , '"), (['--root',''], 'blank'), (['--out',' '], 'blank'), (['--set','=3'], "'=3'"),
                                       (['--set','size=8','--set','size=9'], '--set size=… is given twice'), (['--root','a','--set','root=b'], 'once as --root'), (['--to','digits','--to-set','n_train=8','--to-set','n_train=9'], '--to-set n_train=… is given twice'),
                                       (['--images','20','--set','n_train=30'], '--images and --set n_train'), (['--set','x='+'['*100_000], "no argument"), (['--set','name=x'], "'name'"), (['--set','cls=x'], "'cls'")])
def test_values_that_mean_nothing_or_two_things(args, word, capsys): assert word in _refused(capsys, 'study', *args)


def test_a_value_is_json_or_a_text():
    of = lambda text: parser().parse_args(['levels','--set',text]).set[0][1]
    assert [of(f'a={o}') for o in ('3','3.5','true','null','[1,2]','x','NaN','Infinity','b=c','')] == [3, 3.5, True, None, [1,2], 'x', 'NaN', 'Infinity', 'b=c', '']
    assert [of(f'a={o}') for o in ('.3','5.','+3','-.5','+2.5','1.e3','.5E-1','007','.','+','1.2.3','٣.')] == [.3, 5., 3, -.5, 2.5, 1000., .05, '007', '.', '+', '1.2.3', '٣.']


def _own(tmp_path, *counts):
    "A folder of images; `counts` are (folder, images)."
    rng = np.random.default_rng(0)
    for name,n in counts:
        (tmp_path/'own'/name).mkdir(parents=True)
        for i in range(n): Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(tmp_path/'own'/name/f'{i}.png')
    return tmp_path/'own'


OWN = {'flat': [(o, 5) for o in ('cat','dog','cow')], 'fewer': [('a', 3), ('b', 3)], 'valid': [(f'{s}/{c}', 6) for s in ('train','val') for c in 'ab'], 'test': [(f'{s}/{c}', 6) for s in ('train','test') for c in 'ab']}

@pytest.mark.parametrize('kind', [*OWN])
@pytest.mark.parametrize('args', [[], ['--splits','test'], ['--splits','test','--transfers','finetune'], ['--splits','valid'], ['--splits','train'], ['--lrs','0.1,0.3']])
def test_small_folders_are_planned_or_a_remedy_works(kind, args, tmp_path, capsys, monkeypatch):
    "Every setting that a message names is followed, until nothing more is named."
    from granularity_nb.study.plan import runs
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr('granularity_nb.study.run.run', lambda plan, *a, **kw: (_ for _ in ()).throw(StudyError(f'planned: {len(runs(plan))}')))
    root,last = _own(tmp_path, *OWN[kind]),args
    for _ in range(4):
        err = _refused(capsys, 'study', '--data', 'folder', '--root', root, '--out', tmp_path/'out', *last)
        said = re.search(r'--set (valid|test)=\S*[^\s);,]', err)
        if not said: break
        last = [*args, *[o for k in ('valid','test') for o in last if o.startswith(f'{k}=') and k not in said[0] for o in ('--set', o)], *said[0].split()]
    assert 'planned: 4' in err and 'one target class' not in err
    if not args and kind in ('flat','valid','test'): assert 'planned' in _refused(capsys, 'study', '--data', 'folder', '--root', root, '--out', tmp_path/'out'), 'nothing need be said at all'


@pytest.mark.parametrize('args,left', [(['--set','max_chars=1'], ('image','character')), (['--set','scripts=["Armenian","Georgian","Lao"]'], ('image','character','script')), (['--images','9','--preset','full'], None)])
def test_a_preset_is_not_refused_for_its_own_maps(args, left, capsys, monkeypatch, tmp_path):
    from granularity_nb.study.plan import runs
    monkeypatch.setattr('granularity_nb.study.run.run', lambda plan, *a, **kw: (_ for _ in ()).throw(StudyError(f'planned {plan.maps}' if runs(plan) else '')))
    err = _refused(capsys, 'study', '--set', 'n_valid=200', *args, '--seeds', '0', '--out', tmp_path)
    assert f'planned {left or ""}' in err and "is left out of the preset's label maps" in err
    if left: assert "'character' and 'base letter' are the same classes" in _refused(capsys, 'study', *args, '--levels', 'character,base letter', '--out', tmp_path), 'what is asked for is not left out'


def test_a_seed_without_effect_is_refused(capsys):
    for args in (['--set','seed=3'], ['--set','seed=x'], ['--to','digits','--to-set','seed=3','--transfers','probe'], ['--set','steps=[["subsample",{"n":9,"seed":3}]]']): assert 'has no effect' in _refused(capsys, 'study', *args)
    assert "steps must be a list" in _refused(capsys, 'study', '--set', 'steps=5', '--images', '9')


def test_images_of_other_channels_cannot_be_combined(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    root = _own(tmp_path, *OWN['test'])
    for args in (['--to','folder','--to-set',f'root={root}','--to-set','size=8'], ['--data','folder','--root',root,'--to','digits']):
        assert 'one network cannot take both: choose two data sets whose images have as many' in _refused(capsys, 'study', '--transfers', 'finetune', '--splits', 'test', '--out', tmp_path/'out', *args)


def test_images_that_moved_are_found_again(tmp_path, capsys):
    from granularity_nb.study.plan import Plan
    resumed = lambda *args: cli._resumed(parser().parse_args(['study','--resume',*map(str, args)]), tmp_path)
    a,b = tmp_path/'a',tmp_path/'b'
    for o in (a, b): o.mkdir()
    plan = Plan(data='folder', data_args=dict(root=a), to='table', to_args=dict(root=b, file='t.csv'), transfers=('finetune',))
    for to in (plan.to, None):
        (tmp_path/'plan.json').write_text(json.dumps(dict(format=1, plan=(p := plan if to else Plan(data='folder', data_args=dict(root=a))).to_dict())))
        assert resumed() == p and resumed('--root', '/new').data_args['root'] == resumed('--set', 'root=/new').data_args['root'] == os.path.abspath('/new') and resumed('--set', 'cache=/c').digest == p.digest
    with pytest.raises(StudyError, match='transfers to no other data set.*leave out --to-set'): resumed('--to-set', 'root=/new')
    (tmp_path/'plan.json').write_text(json.dumps(dict(format=1, plan=plan.to_dict())))
    moved = resumed('--to-set', 'root=/new', '--root', '/other')
    assert moved.digest == plan.digest and (moved.data_args['root'], moved.to_args['root'], moved.to_args['file']) == tuple(map(os.path.abspath, ('/other','/new')))+(plan.to_args['file'],)
    for args in (['--to-set','file=x'], ['--to-set','root=/new','--to-set','size=8'], ['--set','size=8']):
        with pytest.raises(StudyError, match=f'{args[0]} would have no effect'): resumed(*args)


def test_a_name_that_the_locale_cannot_write_is_told_from_other_bytes(tmp_path, monkeypatch):
    from granularity_nb.study import run
    for name,word in (('ünï','is UTF-8, but this locale is not; set PYTHONUTF8=1'), (b'a\xff','is not UTF-8, and files of weights')):
        name = os.fsencode(name).decode('ascii', 'surrogateescape')
        with pytest.raises(StudyError, match=word): run._check_folder(tmp_path/name, None)


def test_splits_are_asked_for():
    assert _plan(parser().parse_args(['study','--splits','shifted'])).splits == ('shifted',)
    assert _plan(parser().parse_args(['study','--to','digits','--transfers','probe','--splits','valid,test'])).splits == ('valid','test'), 'what is asked for is not looked for first'


def test_rates_are_tried_where_there_are_some():
    lrs = lambda *args: _plan(parser().parse_args(['study',*args])).lrs
    assert lrs('--lrs','0.1,1') == dict(transfer=[.1,1.], direct=[.1,1.]) and lrs('--lrs','0.1,1','--transfers','probe') == dict(direct=[.1,1.])
    assert lrs('--data','tiny-imagenet','--transfers','readout,probe').keys() == {'direct'} and lrs('--data','tiny-imagenet').keys() == {'direct','transfer'}


def test_a_folder_of_images_is_found_again_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _plan(parser().parse_args(['study','--data','tiny-imagenet','--root','pics','--to','digits','--transfers','probe','--splits','test','--to-set','n_train=9'])).data_args['root'] == str(tmp_path/'pics')
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    args = parser().parse_args(['study','--data','tiny-imagenet','--root=~/pics','--out=~/studies'])
    assert _plan(args).data_args['root'] == str(tmp_path/'home'/'pics') and args.out == tmp_path/'home'/'studies'


def test_what_has_no_effect_with_resume_is_refused(tmp_path, capsys):
    for args,word in ((['--splits','test'], '--splits'), (['--data','digits'], '--data'), (['--preset','full'], '--preset')):
        assert f'{word} would have no effect' in _refused(capsys, 'study', '--resume', '--out', tmp_path, *args)
    assert 'digits-quick holds no study' in _refused(capsys, 'study', '--resume', '--data', 'digits'), 'the folder is called by them'


def test_reports_of_what_is_no_study(tmp_path, capsys):
    (tmp_path/'file').write_text('x')
    for o in ('file','none','.','a\nb'): assert 'holds no study' in _refused(capsys, 'report', tmp_path/o)


def test_a_set_without_training_images_has_no_levels(capsys): assert 'no training images' in _refused(capsys, 'levels', '--set', 'n_train=0')


@pytest.mark.parametrize('args,word', [(['--d','99999999'], 'GB of memory would be needed'), (['--d','999999','--k','499000'], 'GB of memory'), (['--patches','99999999'], 'GB of memory'), (['--neurons','999999999'], 'GB of memory'), (['--d','9'*400], 'nine digits'), (['--k','1_0'], '1_0'),
                                       (['--lr','nan'], 'lr > 0'), (['--s-star','nan'], 's* > 0'), (['--hard-fraction','inf'], 'share'), (['--full','--k','4'], '--k has no effect'), (['--full','--s-star','4'], '--s-star has no effect'), (['--only','separation'], '--only chooses')])
def test_theory_that_cannot_be(args, word, capsys, tmp_path): assert word in _refused(capsys, 'theory', *args, '--out', tmp_path)


# ---- what is printed

def _evil(tmp_path):
    rng = np.random.default_rng(0)
    for c in ('x\x1b[31m/a\x1b]0;b\x07','x\x1b[31m/b\rc','y\u202e/c\ngranularity: all is well','y\u202e/d'):
        (tmp_path/'pics'/c).mkdir(parents=True)
        for i in range(12): Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(tmp_path/'pics'/c/f'{i}.bmp')
    return tmp_path/'pics'


CONTROL = set(map(chr, [*range(10), *range(11, 32), *range(0x7f, 0xa0), 0x202e]))


def test_names_do_not_command_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    root = _evil(tmp_path)
    (tmp_path/'t.csv').write_text('path,\x1b[31mtop,leaf\n'+''.join(f'{o.relative_to(root)},{"xy"[i%2]},{"xy"[i%2]}{i%4}\n' for i,o in enumerate(sorted(root.rglob('*.bmp'))) if '\n' not in str(o) and '\r' not in str(o)), encoding='utf-8')
    for args in (['levels','--data','table','--root',root,'--set',f'file={tmp_path/"t.csv"}','--set','label=["\\u001b[31mtop","leaf"]'], ['levels','--data','folder','--root',root,'--set','target=\x1b[0m\n'], ['study','--data','folder','--root',root,'--levels','\x1b[1m'],
                 ['study','--data','folder','--root',root,'--set','size=8','--set','target=leaf','--splits','\x1b[1m'], ['report','\x1b[2J'], ['study','\x1b[2J'], ['\x1b[2J']):
        _,out,err = _call(capsys, *args)
        assert not CONTROL & set(out+err) and '\\x1b' in out+err
        assert len([o for o in err.splitlines() if o.startswith('granularity') and 'note' not in o]) == (args[0] != 'levels' or 'target=\x1b[0m\n' in args)


def test_a_report_on_the_terminal_has_printable_names(tmp_path, capsys, monkeypatch):
    "Tables and findings, of a study that is not run."
    import pandas as pd
    from granularity_nb.study import report, run
    name = 'a\x1b[31m\nb'
    rows = [dict(recipe='plain', label_map=m, n_classes=n, transfer=t, seed=s, split='test', n=40, error=.1+.01*s+.1*(t == 'direct'), nll=1., top5_error=0., ece=.1, run='x') for m,n,t in ((name, 5, 'readout'), ('script', 3, 'readout'), ('direct', 3, 'direct')) for s in range(3)]
    monkeypatch.setattr(run, 'run', lambda *args, **kw: None)
    monkeypatch.setattr(run, 'collect', lambda *args: pd.DataFrame(rows))
    monkeypatch.setattr(report, 'report', lambda folder: tmp_path/'r.html')
    monkeypatch.setattr(report, 'findings', lambda *args: [f'best is {name}'])
    code,out,_ = _call(capsys, 'study', *SMALL, '--levels', 'script', '--out', tmp_path)
    assert code == 0 and out.count(r'a\x1b[31m\nb') == 2 and not CONTROL & set(out)


def test_the_terminal_says_of_the_best_what_the_report_says(tmp_path, capsys, monkeypatch):
    "It is chosen on the validation images, which are measured whether asked for or not."
    import pandas as pd
    from granularity_nb.study import report, run
    rows = [dict(recipe='plain', label_map=m, n_classes=n, transfer=t, seed=s, split=split, n=40, error=e+.01*s, nll=1., top5_error=0., ece=.1, run='x')
            for split,shift in (('valid', 0), ('test', .1)) for m,n,t,e in (('script', 3, 'readout', .2-shift), ('kind', 9, 'readout', .15), ('direct', 3, 'direct', .4)) for s in range(3)]
    monkeypatch.setattr(run, 'run', lambda *args, **kw: None)
    monkeypatch.setattr(run, 'collect', lambda *args: pd.DataFrame(rows))
    monkeypatch.setattr(report, 'report', lambda folder: tmp_path/'r.html')
    code,out,_ = _call(capsys, 'study', *SMALL, '--levels', 'script,kind', '--splits', 'test', '--seeds', '0,1,2', '--out', tmp_path)
    assert code == 0 and 'best on the validation images is kind' in out and 'mean ± 95 % interval over 3 seeds (recipe' in out and 'flatters' not in out
    monkeypatch.setattr(run, 'collect', lambda *args: pd.DataFrame(rows).query('seed == 0'))
    code,out,_ = _call(capsys, 'study', *SMALL, '--levels', 'script,kind', '--splits', 'test', '--seeds', '0', '--out', tmp_path)
    assert code == 0 and 'mean over 1 seed, in brackets the 95 % interval of the images (recipe' in out and '±' not in out


# ---- where it is printed


class _Ascii(io.TextIOWrapper):
    def __init__(self, encoding): super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
    def said(self): return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize('encoding', ['cp1252','ascii','latin-1','cp437'])
def test_any_encoding_of_the_terminal_will_do(encoding, monkeypatch, tmp_path):
    out,err = _Ascii(encoding),_Ascii(encoding)
    monkeypatch.setattr(sys, 'stdout', out), monkeypatch.setattr(sys, 'stderr', err)
    def say(args):
        cli._say('± → − … 猫 \udcff')
        raise StudyError('≥ 猫')
    monkeypatch.setattr(cli, '_levels', say)
    assert main(['levels']) == 2
    text = out.said()
    assert '->' in text and '\\u732b' in text and '\\udcff' in text and ('±' if encoding != 'ascii' else '+-') in text and '\\u732b' in err.said()


def test_a_closed_stdout_is_none(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None), monkeypatch.setattr(sys, 'stderr', None)
    assert main(['levels', *SMALL]) == 0 and main(['levels','--data','x']) == 2


def test_a_reader_that_stops_gets_no_traceback(tmp_path):
    read,write = os.pipe()
    os.close(read)
    r = subprocess.run([sys.executable, '-m', 'granularity_nb.cli', 'levels', *SMALL], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert r.returncode == 141 and r.stderr == b'', r.stderr


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('unbuffered', ['','1'])
def test_a_full_disk_behind_stdout_is_said_once(unbuffered):
    env = os.environ | dict(PYTHONUNBUFFERED=unbuffered)
    with open('/dev/full', 'w') as f: r = subprocess.run([sys.executable, '-m', 'granularity_nb.cli', 'levels', *SMALL], stdout=f, stderr=subprocess.PIPE, text=True, env=env)
    assert r.returncode == 2 and r.stderr == 'granularity: No space left on device\n'


def test_a_folder_in_other_bytes(tmp_path, capsys, monkeypatch):
    "Files of weights cannot lie there, which is known before anything is computed; images can."
    from granularity_nb.files import write_whole
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b'out\xff')
    err = _refused(capsys, 'study', *SMALL, '--levels', 'script', '--out', odd)
    assert r'out\udcff' in err and 'UTF-8' in err and not os.path.exists(odd)
    assert r'\udcff holds no study' in _refused(capsys, 'report', odd)
    write_whole(tmp_path/'plan.json', json.dumps(dict(root=odd), ensure_ascii=False))
    assert json.loads((tmp_path/'plan.json').read_text(encoding='utf-8')) == dict(root=odd)


# ---- where data lie

def test_a_root_that_no_data_set_reads(capsys):
    for command in ('study','levels'):
        err = _refused(capsys, command, '--root', 'a1')
        assert '--root a1' in err and '--data folder' in err and 'table' in err
        assert 'glyphs' in _refused(capsys, command, '--data', 'glyphs', '--root', 'a1')


def test_help_names_the_data_sets(capsys):
    from granularity_nb.data.source import _built_in
    code,out,_ = _call(capsys, 'study', '--help')
    assert code == 0 and ', '.join(sorted(_built_in)) in ' '.join(out.split())


def test_levels_of_a_flat_folder_say_what_is_finer(tmp_path, capsys):
    for k in 'ab': (tmp_path/k).mkdir(), Image.fromarray(np.zeros((4,4), np.uint8)).save(tmp_path/k/'1.png')
    args = 'levels','--data','folder','--root',tmp_path,'--set','valid=0','--set','test=0'
    said = 'no level finer than its target: finer labels are image'
    assert said in _call(capsys, *args)[1] and said not in _call(capsys, 'levels', *SMALL)[1]
