"Hundreds of command lines, most of them wrong: each ends with an exit code that is promised, and what is wrong is said in one line; never a traceback."
import random, re, traceback
import numpy as np, pytest
from PIL import Image
from granularity_nb import cli

WORDS = ['', ' ', '0', '1', '-1', '2', '3.5', '.3', '5.', '+3', '1e3', '1e999', 'nan', 'NaN', 'inf', 'true', 'false', 'null', 'none', 'None', 'x', 'ü', '²', '１', '1_0', '99999999', '99999999999999999999', '[]', '{}', '[1]', '[[1]]', '["a"]', '"a"',
         '{"a":1}', '[0,1]', '0,1', '0,0', ',', '0,,1', '..', '/', '/dev/null', '~', 'a=b', '=', 'a=', '--', '-', '*', '%s', '{0}', '\\', "'", '"', 'a\nb', '\x1b[31m', '\ud8ff', 'script', 'leaf', 'train', 'valid', 'test', 'cpu', 'meta', 'glyphs']
NAMES = ['n_train', 'n_valid', 'n_test', 'seed', 'test_seed', 'max_chars', 'lookalikes', 'scripts', 'faces', 'difficulty', 'shifted', 'size', 'valid', 'test', 'target', 'cache', 'strict', 'root', 'file', 'path', 'label', 'sep', 'split', 'splits', 'ranks', 'group',
         'steps', 'name', 'cls', 'self', 'args', 'download', 'version', 'truth', 'n_tran', 'a b']
VALUES = [*WORDS, '[["subsample",{"n":5}]]', '[["subsample",5]]', '[["subsample",{"n":"x"}]]', '[["long_tail",{"factor":0}]]', '[["label_noise",{"rate":2}]]', '[["label_noise",{"rate":0.5,"within":3}]]', '[["x",{}]]', '[[]]', '["Latin","Greek"]', 'serif', '[8,8]', '8']
DATA = ['glyphs', 'digits', 'folder', 'table', 'tiny-imagenet', 'imagenet1k', 'imagenet21k', 'inat21', 'cifar100', 'foldr']
MAPS = ['script', 'base letter', 'base lettr', 'image', 'image:2', 'level:1', 'level:x', 'level:99999999999', 'level:', 'depth:1', 'depth:-1', 'random-groups:kind', 'random-groups:x', 'random-groups-across:kind', 'random-splits:30', 'random-splits:0', 'random-splits:9999999',
        'random-splits:', 'kmeans-within:20', 'kmeans-within:1', 'kmeans-across:99999999999', 'kmeans-across:x', 'direct', 'leaf', 'depth 0', 'kmeans-within:²']
OPTIONS = {'--preset': ['quick','full','qick','tune','digits'], '--to': DATA, '--to-set': [f'{k}={v}' for k in NAMES[:14] for v in ('5','x','[8,8]','40')], '--lrs': ['0.1,0.3','0.1'], '--levels': MAPS, '--splits': ['test,valid','shifted','tset'],
           '--transfers': ['probe','finetune,probe','readout','marginal','fine-tune'], '--seeds': ['0','0,1','4294967296'], '--images': ['20','100'], '--workers': ['1'], '--device': ['cuda:9','gpu'], '--out': ['a'], '--lr': ['1'], '--dataset': ['x'], '--resume': [], '--data': DATA}
GLYPHS = '--set n_train=60 --set n_valid=40 --set n_test=40 --set max_chars=5'
RIGHT = [f'levels {GLYPHS}', 'levels --data folder --root PICS', 'levels --data table --root PICS --set file=table.csv', 'levels --data digits',
         f'study {GLYPHS} --levels script', f'study {GLYPHS} --levels kind,script --transfers probe --seeds 0', 'study --data folder --root PICS --set size=8', 'study --data table --root PICS --set file=table.csv --set size=8 --transfers readout',
         f'study {GLYPHS} --levels script --transfers finetune --to digits --to-set n_train=50', f'study {GLYPHS} --lrs 0.1,0.3 --levels script', 'study --data digits --set n_train=50 --splits test,valid', 'study --data folder --root PICS --images 20',
         'study --data folder --root PICS/../small/flat', 'study --data folder --root PICS/../small/val --splits test', 'study --data folder --root PICS/../small/tested --set size=8',
         'report PICS', 'study --resume --out PICS', 'theory --d 32 --k 2 --patches 16 --seeds 0', 'theory --lr 0.1 --neurons 4 --s-star 2 --s-dagger 1 --hard-fraction 0.1 --seeds 0,1', 'theory --full --only separation']


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "Folders of images and a table of them, and somewhere to write."
    top = tmp_path_factory.mktemp('fuzz')
    rng = np.random.default_rng(0)
    rows = ['path,label,split']
    for c in ('x/a','x/b','y/c','y/d'):
        (top/'pics'/c).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(top/'pics'/c/f'{i}.bmp')
            rows.append(f'{c}/{i}.bmp,{c},{("train","train","valid","test")[i%4]}')
    (top/'pics'/'table.csv').write_text('\n'.join(rows))
    for name,parts in dict(flat=('cat','dog','cow'), val=('train/a','train/b','val/a','val/b'), tested=('train/a','train/b','test/a','test/b')).items():
        for c in parts:
            (top/'small'/name/c).mkdir(parents=True)
            for i in range(5): Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(top/'small'/name/c/f'{i}.bmp')
    (top/'empty').mkdir()
    return top


def _changed(rng, words):
    "One mistake, or one thing more."
    words,i,how = list(words),rng.randrange(len(words) > 1, len(words)),rng.random()
    if how < .45: words[i] = rng.choice(VALUES)
    elif how < .5 and len(words) > 1: del words[i]
    elif how < .75 and words[0] in ('levels','study'): words += ['--set', f'{rng.choice(NAMES)}={rng.choice(VALUES)}']
    elif words[0] in ('levels','study'):
        o = rng.choice([*OPTIONS])
        words += [o, rng.choice([*OPTIONS[o]*2, *WORDS])] if OPTIONS[o] else [o]
    else: words += [rng.choice(['--k','--d','--patches','--s-star','--s-dagger','--hard-fraction','--lr','--neurons','--only','--seeds','--out']), rng.choice(WORDS)]
    return words


def _line(rng, top):
    words = rng.choice(RIGHT).replace('PICS', str(top/'pics')).split()
    for _ in range(rng.choice([0,1,1,1,2])): words = _changed(rng, words)
    return words


def _planned(plan, folder='study', workers=None, resume=False, progress=True):
    "All of `run` but for the training."
    from granularity_nb.study.plan import StudyError, checked, runs
    from granularity_nb.study.run import load_plan
    runs(load_plan(folder) if resume else checked(plan))
    raise StudyError('planned, not run')


@pytest.mark.parametrize('part', range(4))
def test_whatever_is_typed_ends_in_order(part, places, monkeypatch, capsys):
    monkeypatch.chdir(places/'empty')
    monkeypatch.setenv('GRANULARITY_CACHE', str(places/'cache'))
    monkeypatch.setenv('GRANULARITY_DATA', str(places/'none'))
    monkeypatch.setattr('granularity_nb.study.run.run', _planned)
    monkeypatch.setattr('granularity_nb.theory.claims.full', lambda *args, **kw: [])
    monkeypatch.setattr('granularity_nb.theory.claims.separation', _no_training)
    rng,bad,good = random.Random(part),[],0
    for _ in range(120):
        line = _line(rng, places)
        try: code = cli.main(line)
        except SystemExit as e: code = e.code
        except Exception: code = traceback.format_exc(limit=-3)
        err = capsys.readouterr().err
        said = [o for o in err.splitlines() if o.startswith('granularity') and not o.startswith('granularity: note: ')]
        good += 'planned' in err or code == 0
        if code not in (0, 2) or len(said) != (code == 2) or re.search('[\x00-\x09\x0b-\x1f]', err): bad.append((line, code, err))
    assert not bad, f'{len(bad)}, such as {bad[0]}'
    assert good >= 10, 'hardly one was right: nothing behind the first check was tried'


def _no_training(mv, seeds, **kw):
    "The networks are made, not trained."
    from granularity_nb.theory.multiview import TheoryError
    raise TheoryError('planned, not run')
