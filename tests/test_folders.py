"What is split, class or group in a tree of folders or a table; arguments that are none; targets that cross the labels."
import itertools, os, shutil, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from hypothesis import given, strategies as st
from granularity_nb.data.images import SourceWarning, carve
from granularity_nb.data.source import Source, SourceError, source_arguments, source_names
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, HierarchyWarning, LabelMap
from granularity_nb.labels.reading import folder_splits, read_table, split_names, split_of
from granularity_nb.labels.taxonomy import folders

@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GRANULARITY_DATA', raising=False)

def tree(root, *paths, n=4):
    "`n` images in each folder, all different."
    for k,o in enumerate(paths):
        (root/o).mkdir(parents=True, exist_ok=True)
        for i in range(n): Image.fromarray(np.full((4,4,3), (7*k+i) % 256, np.uint8)).save(root/o/f'{i}.png')
    return root

def opened(root, **kw): return Source.open('folder', root=root, **dict(valid=0, test=0) | kw)
def sizes(s): return {k: len(o) for k,o in s.splits.items()}
def names(s, split='train'): return sorted({s.hierarchy.leaves[o] for o in s.split(split).leaf})


# Names of splits

@pytest.mark.parametrize('name,kind', [('train','train'), ('TRAIN','train'), ('Training_Set','train'), ('train images','train'), ('trainset','train'), ('Train2017','train'), ('data-train','train'),
    ('val','valid'), ('validation_data','valid'), ('dev','valid'), ('TestSet','test'), ('Testing Images','test'), ('eval','?'), ('hold-out','?'),
    ('bullet train',None), ('trainer',None), ('contest',None), ('latest',None), ('values',None), ('2017',None), ('',None), ('dog',None)])
def test_names_of_splits(name, kind): assert split_of(name) == kind

@pytest.mark.parametrize('together,looks', [(['tr','te'], dict(tr='train', te='test')), (['tr','te','de'], {}), (['fold1','fold_2'], {'fold1':'?', 'fold_2':'?'}), (['fold1','dog'], {}),
    (['trainA','trainB','testA'], {'trainA':'?', 'trainB':'?', 'testA':'?'}), (['bullet_train','steam_train'], {}), (['bus','train'], dict(train='train')), ([], {}),
    (['test_tube','train_station','beach','forest','kitchen'], {}), (['cars_train','cars_test'], {'cars_train':'?', 'cars_test':'?'})])
def test_names_side_by_side(together, looks): assert split_names(together) == looks

PLAIN = [(['train_set','val','test'], ['train','valid','test']), (['Train Images','Test Images'], ['train','test']), (['training','validation'], ['train','valid']), (['Training_Set','TEST'], ['train','test']), (['tr','te'], ['train','test'])]
@pytest.mark.parametrize('tops,splits', PLAIN)
def test_splits_that_are_plain_are_taken_and_said(tmp_path, tops, splits):
    tree(tmp_path/'f', *(f'{o}/{c}' for o in tops for c in ('dog/poodle','dog/beagle','cat')))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        s = opened(tmp_path/'f')
    assert sizes(s) == dict.fromkeys(splits, 12) and s.target.vocab == ('cat','dog') and names(s) == ['beagle','cat','poodle']
    usual = {'train','training','val','validation','test'}
    assert [(o == k or f'{o} for {k!r}' in str(w.message)) and 'splits=False' in str(w.message) for w in said for o,k in zip(tops, splits)] == [True]*(0 if set(tops) <= usual else len(tops))
    assert folders(tmp_path/'f').leaves == ('beagle','cat','poodle')

UNPLAIN = [['val/a','test/a'], ['bus','car','train'], ['train/steam','train/diesel','car/sedan'], ['fold1/a','fold2/a'], ['pets/train/a','pets/val/a'], ['images/train/a','images/val/a','images/train/b'],
    ['dog/train','dog/test','cat/train','cat/test'], ['dog/train','cat/train'], ['x/train/a','x/val/a','y/train/a'], ['trainA/a','testA/a'], ['train1/a','train2/a','test/a'], ['a','b','test'], ['images_background/a','images_evaluation/b'],
    ['train/train/a','train/val/a'], ['2021_train_mini/a','2021_valid/a'], ['train/a','val/a','car/sedan'], ['train/a','dev/a','val/a']]
@pytest.mark.parametrize('paths', UNPLAIN)
def test_splits_that_are_not_are_refused_with_the_switch(tmp_path, paths):
    tree(tmp_path/'f', *paths)
    for f in (opened, folders, Hierarchy.from_folders):
        with pytest.raises((SourceError, HierarchyError), match='look.* splits?.*splits=.*splits=False') as e: f(tmp_path/'f')
        assert '\n' not in str(e.value)
    s = opened(tmp_path/'f', splits=False)
    assert sizes(s) == dict(train=4*len(paths)) and s.hierarchy.n_leaves == len(paths) == folders(tmp_path/'f', splits=False).n_leaves

@pytest.mark.parametrize('tops,splits', [(['cars_train','cars_test'], dict(train='cars_train', test='cars_test')), (['trainA','trainB','testA'], dict(train=['trainA','trainB'], test='testA')), (['images_background','images_evaluation'], dict(train='…')),
    (['train1','train2','test'], dict(train=['train1','train2'], test='test')), (['2021_train_mini','2021_valid'], dict(train='2021_train_mini', valid='2021_valid')), (['fold1','fold2'], dict(train='…'))])
def test_a_refusal_shows_splits_that_work(tmp_path, tops, splits):
    tree(tmp_path/'f', *(f'{o}/{c}' for o in tops for c in 'ab'))
    with pytest.raises(SourceError) as e: opened(tmp_path/'f')
    assert f'splits={splits!r}, or' in str(e.value)
    if '…' not in str(splits): assert {k: names(opened(tmp_path/'f', splits=splits), k) for k in splits} == dict.fromkeys(splits, ['a','b'])

@pytest.mark.parametrize('below,says', [('test/images', "no image of 'test' shows a class of the target that 'train' has, but others, such as 'images'"), ('test', 'images lie directly in .*test, so they have no class')])
def test_a_split_without_labels_is_refused_with_the_way_around(tmp_path, below, says):
    tree(tmp_path/'f', 'train/a', 'train/b', 'val/a', 'val/b', below)
    with pytest.raises(SourceError, match=says+".*Leave 'test' out with splits={'train': 'train', 'valid': 'val'}, if its images have no labels"): opened(tmp_path/'f')
    with pytest.warns(SourceWarning, match='1 folder in none of the splits'): assert sizes(opened(tmp_path/'f', splits=dict(train='train', valid='val'))) == dict(train=8, valid=8)
    tree(tmp_path/'g', 'train/dog/a', 'train/cat/b', 'test/dog/c')
    with pytest.warns(SourceWarning, match="1 classes have images in 'test' but none in 'train'"): assert sizes(opened(tmp_path/'g')) == dict(train=8, test=4)
    file = table(tmp_path/'t', some(split=['train']*6+['test']*6) | dict(label=['a','b']*3+['?']*6))
    with pytest.raises(SourceError, match="Leave 'test' out with splits={'train': 'train'},"): in_table(file)

@pytest.mark.parametrize('paths', [['vehicles/train','vehicles/car','food/apple'], ['bullet_train','car'], ['animals/test','animals/dog/a','plants/x']])
def test_classes_are_not_taken_for_splits(tmp_path, paths):
    tree(tmp_path/'f', *paths)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert opened(tmp_path/'f').hierarchy.n_leaves == len(paths)

@pytest.mark.parametrize('paths,splits,want', [
    (['Alpha/a','Alpha/b','Beta/a'], dict(train='Alpha', test='Beta'), dict(train=['a','b'], test=['a'])),
    (['one/a','two/b','three/a'], dict(train=['one','two'], val='three/'), dict(train=['a','b'], valid=['a'])),
    (['dog/train','dog/test','cat/train','cat/test'], dict(train='*/train', test='*/test'), dict(train=['cat','dog'], test=['cat','dog'])),
    (['images/train/a','images/val/a','images/train/b'], dict(train='images/train', valid='images\\val'), dict(train=['a','b'], valid=['a'])),
    (['train/steam','train/diesel','car/sedan'], dict(train='train'), dict(train=['diesel','steam']))])
def test_splits_are_what_they_are_said_to_be(tmp_path, paths, splits, want):
    tree(tmp_path/'f', *paths)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        s = opened(tmp_path/'f', splits=splits)
    assert {k: names(s, k) for k in s.splits} == want and s.args['splits'] == splits
    assert [str(o.message) for o in said] == (["folder: 1 folder in none of the splits, left out, such as 'car/sedan'"] if 'sedan' in paths[-1] else [])
    assert all(o.split('/')[-2] in ('train','test') or names(s) for k in s.splits for o in s.split(k).files.relative())
    again = Source.open('folder', **s.args, **s.where)
    assert [o.digest for o in again.splits.values()] == [o.digest for o in s.splits.values()]

@pytest.mark.parametrize('splits,says', [(dict(train='Alpah'), "no images in a folder 'Alpah'; did you mean 'Alpha'"), (dict(test='Alpha'), "no folder for 'train', only for 'test'"), ({}, 'must be False'), (True, 'must be False'),
    (dict(train='Alpha', test='*'), "names 'Alpha/a' twice"), (dict(train=5), "must be a name, and stand for a folder"), (dict(train=''), 'must be a name'), (dict(train='Alpha/a'), 'directly'), ({'train':'Alpha', ' ':'Beta'}, 'must be a name'), ('Alpha', 'splits must be'), (['Alpha'], 'splits must be'), (1, 'splits must be')])
def test_splits_that_name_nothing(tmp_path, splits, says):
    tree(tmp_path/'f', 'Alpha/a', 'Beta/a')
    with pytest.raises(SourceError, match=says): opened(tmp_path/'f', splits=splits)


# The same in tables

def table(root, rows, file='t.csv', **kw):
    "A table of images that are made here."
    rows = pd.DataFrame(rows)
    for k,o in enumerate(dict.fromkeys(rows.path)):
        if not isinstance(o, str) or (root/o).exists(): continue
        (root/o).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4,4,3), k % 256, np.uint8)).save(root/o)
    root.mkdir(exist_ok=True)
    rows.to_csv(root/file, index=False, **kw) if file.endswith('.csv') else rows.to_parquet(root/file)
    return root/file

def some(n=12, **more): return dict(path=[f'{i}.png' for i in range(n)], label=['dog/poodle','dog/beagle','cat/tabby']*(n//3)) | more
def in_table(file, **kw): return Source.open('table', root=file, **dict(valid=0, test=0) | kw)

@pytest.mark.parametrize('cells,splits', [(['train','TEST'], ['train','test']), (['Training Set','val'], ['train','valid']), (['tr','te'], ['train','test']), (['train','sketch'], ['train','sketch'])])
def test_cells_of_splits(tmp_path, cells, splits):
    file = table(tmp_path/'t', some(split=[*cells]*6))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert sizes(in_table(file)) == dict.fromkeys(splits, 6)
    assert [f'{a} for {b!r}' in str(o.message) or a == b for o in said for a,b in zip(cells, splits)] == ([] if cells == ['train','TEST'] else [True]*2)

@pytest.mark.parametrize('column,cells,kw,says', [('subset', ['train','test'], {}, "'subset' seems to hold splits.*split='subset', or splits=False"), ('Split', ['tr','te'], {}, "pass split='Split'"), ('is_train', [1,0], {}, "splits={'train': '1'"),
    ('split', ['fold1','fold2'], {}, "no row has 'train' in column 'split', only 'fold1', 'fold2': say which"), ('split', [0,1], {}, "only '0', '1'"), ('split', ['a','b'], dict(splits=dict(train='c')), "no row has 'c'"),
    ('split', ['a','b'], dict(splits=dict(test='a')), "no row has 'train'"), ('split', ['a','b'], dict(splits=dict(train='a', test=['a'])), "puts 'a' into"), ('fold', [1,2], dict(splits=dict(train=1)), "no column 'split'"), ('split', ['a','b'], dict(splits=True), 'must be False')])
def test_tables_whose_splits_are_not_plain(tmp_path, column, cells, kw, says):
    file = table(tmp_path/'t', some() | {column: cells*6})
    with pytest.raises(SourceError, match=says): in_table(file, **kw)
    assert sizes(in_table(file, splits=False)) == dict(train=12)

FLAGS = [(True, False), (1, 0), ('yes','no'), (1., 0.)]
@pytest.mark.parametrize('yes,no', FLAGS)
@pytest.mark.parametrize('ending', ['csv','parquet'])
def test_is_valid_is_a_column_of_splits(tmp_path, yes, no, ending):
    flags = [no]*9+[yes]*3
    file = table(tmp_path/'t', some(is_valid=flags), f't.{ending}')
    with pytest.warns(SourceWarning, match=f"column 'is_valid' is taken for splits: {no} for 'train', {yes} for 'valid'; .* splits=False"): s = in_table(file)
    assert s.split('valid').files.relative() == ['9.png','10.png','11.png'] and sizes(s) == dict(train=9, valid=3) and s.args['split'] == 'split'
    assert sizes(in_table(file, splits=False)) == dict(train=12)
    assert sizes(in_table(file, splits=dict(train=str(yes), test=str(no)), split='is_valid')) == dict(train=3, test=9)
    for k,held in dict(valid='valid', is_val='valid', validation='valid', is_test='test', test='test', in_test='test', holdout='test', isTrain='test', is_training_image='test').items():
        train = 'rain' in k
        file = table(tmp_path/k, some(**{k: flags}), f't.{ending}')
        hint = dict(train=str(yes if train else no)) | {held: str(no if train else yes)}
        with pytest.raises(SourceError) as e: in_table(file)
        assert f'pass split={k!r}, splits={hint}, or splits=False' in str(e.value)
        assert sizes(in_table(file, split=k, splits=hint)) == (dict(train=3, test=9) if train else {'train': 9, held: 3})
        if k in ('is_test','valid'): assert sizes(in_table(file, split=k)) == {'train': 9, held: 3}

def test_flags_that_say_nothing_or_too_much(tmp_path):
    assert sizes(in_table(table(tmp_path/'a', some(is_valid=[False]*12, valid=[1]*12)))) == dict(train=12), 'all alike'
    assert sizes(in_table(table(tmp_path/'b', some(valid=[3,4]*6)))) == dict(train=12), 'no yes and no'
    with pytest.raises(SourceError, match="columns 'is_valid', 'is_test' seem to hold splits.*one column 'split'"): in_table(table(tmp_path/'c', some(is_valid=[0,0,1]*4, is_test=[0,1,0]*4)))

@pytest.mark.parametrize('target', ['leaf','depth 1'])
def test_a_column_called_as_a_level_is_no_target(tmp_path, target):
    file = table(tmp_path/'t', some(**{target: ['x','y']*6}))
    with pytest.raises(SourceError, match=f"target='{target}' is a level of the labels and a column of the table"): in_table(file, target=target)
    assert in_table(file).target.vocab == ('cat','dog')

def test_cells_that_are_said_to_be_splits(tmp_path):
    file = table(tmp_path/'t', some(fold=[1]*4+[2]*4+[3]*4))
    with pytest.warns(SourceWarning, match="4 rows in none of the splits, left out, such as those with '3'"): s = in_table(file, split='fold', splits=dict(train=[1], val='2'), label='label')
    assert sizes(s) == dict(train=4, valid=4)
    assert sizes(in_table(file, split='fold', splits=dict(train=['1','2'], test=3))) == dict(train=8, test=4)
    assert sizes(in_table(file, split=None)) == dict(train=12)


# Arguments of any kind

def any_source(name, root):
    "Arguments that open a data set, made small below `root`."
    from test_images import SPECIES, devkit, imagenet, inat, tiny
    if name in ('glyphs','digits'): return dict(n_train=40, n_valid=10, n_test=10) | (dict(max_chars=2) if name == 'glyphs' else {})
    if name == 'folder': tree(root/'f', 'dog/poodle', 'dog/beagle', 'cat/tabby')
    if name == 'table': return dict(root=str(table(root/'t', some(kind=['dog','dog','cat']*4))))
    if name == 'tiny-imagenet': tiny(root/'f')
    if name == 'imagenet1k': devkit(root/'f', imagenet(root/'f'))
    if name == 'imagenet21k': imagenet(root/'f', 'sorted')
    if name == 'inat21': inat(root/'f', 'train_mini', 'val')
    return dict(root=str(root/'f'))

ANY = [True, False, 0, 1, -1, 2021, 1.5, float('nan'), float('inf'), 2**70, '', 'x', ' ', '\0', '~', '[', [], ['x'], [1], [[8,8]], {}, dict(x=1), dict(train='x'), None, np.int64(3), np.float32(.5), b'x', ('a','b'), object()]

@pytest.mark.parametrize('name', ['glyphs','digits','folder','table','tiny-imagenet','imagenet1k','imagenet21k','inat21','cifar100'])
def test_whatever_is_given_is_used_or_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    base = any_source(name, tmp_path)
    kinds = ANY if name in ('folder','table','digits') else [True, 2021, -1.5, float('inf'), '', 'x', [], dict(x=1), b'x']
    for k,o in itertools.product([*source_arguments(name), 'steps', 'colour'], kinds):
        if k in ('root','cache','download','scripts','faces') and o in ('x','~',' ') if isinstance(o, str) else k == 'download' and o is True: continue # no error, and not ours to try
        if k in ('n_train','n_valid','n_test') and isinstance(o, int) and o > 1e6: continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: s = Source.open(name, **base | {k: o})
            except (SourceError, HierarchyError) as e:
                assert str(e) and '\n' not in str(e).splitlines()[0]
                continue
        assert s.args == s.but().args and isinstance(s.where, dict)

@pytest.mark.parametrize('name,kw,says', [('table', dict(label=2021), "label must be a text or a list of texts, not 2021 .*column with its label.*label='\"2021\"'"), ('table', dict(file=True), 'file must be a text, a path or None, not True'),
    ('table', dict(sep=1), 'sep must be a text or None, not 1'), ('glyphs', dict(scripts=1), 'scripts must be a text, a list of texts or None, not 1'), ('glyphs', dict(faces=True), 'faces must be'), ('folder', dict(root=5), 'root must be a text'),
    ('glyphs', dict(steps='x'), 'steps must be a list'), ('folder', dict(ranks='kind'), 'ranks must be a list of texts or None'), ('imagenet1k', dict(strict='no'), 'strict must be true or false'), ('digits', dict(seed=1.), 'seed must be a whole number, not 1.0'),
    ('inat21', dict(valid='half'), 'valid must be a number'), ('glyphs', dict(steps=[['subsample', dict(n='many')]]), "step 'subsample': n must be a whole number, not 'many'")])
def test_arguments_of_another_type_are_named_with_what_is_wanted(name, kw, says):
    with pytest.raises(SourceError, match=says): Source.open(name, **kw)


# Ranks and groups

def test_depths_have_names(tmp_path):
    tree(tmp_path/'f', 'Greek/alpha', 'Greek/beta', 'Latin/a', n=8)
    s = opened(tmp_path/'f', ranks=['alphabet','character'])
    assert [*s.levels] == ['character','alphabet'] and s.target is s.level('alphabet') and s.target.vocab == ('Greek','Latin') and s.args['ranks'] == ['alphabet','character']
    assert opened(tmp_path/'f', ranks=('alphabet','character'), target='character').target.vocab == ('a','alpha','beta')
    tree(tmp_path/'g', 'train/Greek/alpha', 'test/Greek/alpha', 'train/Latin/a')
    assert [*opened(tmp_path/'g', ranks=['alphabet','character']).levels] == ['character','alphabet'], 'folders of splits are not counted'
    with pytest.warns(SourceWarning, match="'world' is no level"): opened(tree(tmp_path/'h', 'all/Greek/alpha', 'all/Latin/a'), ranks=['world','alphabet','character'])

@pytest.mark.parametrize('ranks,says', [(['a'], r"ranks names 1 depths \(a\), but 'Greek/alpha' has 2"), (['a','b','c'], 'names 3 depths'), (['a','a'], 'different names'), ([], 'one or more'), (['a',' '], 'different names'), (['a', 2], 'must be a list of texts')])
def test_ranks_that_do_not_fit(tmp_path, ranks, says):
    tree(tmp_path/'f', 'Greek/alpha', 'Latin/a')
    with pytest.raises(SourceError, match=says): opened(tmp_path/'f', ranks=ranks)

def groups_of(s, key): return {k: {key(o) for o in split.files.relative()} for k,split in s.splits.items()}
def apart(of): return all(not a & b for a,b in itertools.combinations(of.values(), 2))

def drawers(root, deep):
    "Two breeds of two kinds, each from five drawers of five images: folders, or in the files' names."
    for kind,breed,d in itertools.product(('dog','cat'), ('x','y'), range(5)):
        tree(root, f'{kind}/{breed}/d{d}' if deep else f'{kind}/{breed}', n=5)
        if not deep:
            for i in range(5): (root/kind/breed/f'{i}.png').rename(root/kind/breed/f'd{d}-{i}.png')
    return root

@pytest.mark.parametrize('deep,kw,key', [(True, dict(ranks=['kind','breed','drawer'], group='drawer'), lambda o: o.rpartition('/')[0]), (True, dict(group=2), lambda o: o.rpartition('/')[0]),
    (False, dict(group=r'd\d'), lambda o: o.split('/')[2][:2]), (False, dict(group=r'(\w+)/d(\d)-'), lambda o: tuple(o.split('-')[0].split('/')[1:])), (False, dict(group='.*-'), lambda o: o.split('-')[0])])
def test_what_belongs_together_stays_in_one_split(tmp_path, deep, kw, key):
    root = drawers(tmp_path/'f', deep)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        s,other = (Source.open('folder', root=root, valid=.2, test=20, seed=seed, **kw) for seed in (0, 1))
        plain = Source.open('folder', root=root, valid=.2, test=20)
        again = Source.open('folder', **s.args, **s.where)
    assert apart(groups_of(s, key)) and not apart(groups_of(plain, key)) and sum(sizes(s).values()) == 100 and groups_of(s, key) != groups_of(other, key)
    assert s.hierarchy.n_leaves == 4 == len(names(s)), 'a depth that is a group is no class'
    assert sizes(s) == dict(train=60, valid=20, test=20) and [o.digest for o in again.splits.values()] == [o.digest for o in s.splits.values()]

def test_a_group_above_the_classes(tmp_path):
    root = tree(tmp_path/'f', *(f'site{i}/{c}' for i in range(6) for c in ('owl','jay')))
    s = Source.open('folder', root=root, group=0, valid=8, test=16)
    assert s.hierarchy.leaves == ('jay','owl') and sizes(s) == dict(train=24, valid=8, test=16) and apart(groups_of(s, lambda o: o.split('/')[0]))

@pytest.mark.parametrize('kw,says', [(dict(group=5), 'at depth 5'), (dict(group=-1), 'at depth -1'), (dict(group='['), 'neither the name of a rank nor a regular expression'), (dict(group='7$'), "matches nothing in 8 of 8 paths, such as 'a/x/0.png'"),
    (dict(group=True), 'must be a text, a whole number or None'), (dict(group='.*/'), 'valid: no group can be held out whole for 2 images'), (dict(ranks=['a','b','c'], group='c'), 'at depth 2')])
def test_groups_that_cannot_be(tmp_path, kw, says):
    tree(tmp_path/'f', 'a/x', 'b/y')
    with pytest.raises(SourceError, match=says): opened(tmp_path/'f', valid=2, **kw)

@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=120), st.integers(0, 5), st.floats(0, .4), st.floats(0, .4))
def test_carving_keeps_groups_and_classes(images, seed, valid, test):
    leaf,group = map(np.array, zip(*images))
    try: parts = carve(leaf, dict(valid=valid, test=test), seed, together=group)
    except SourceError: return
    assert sorted(np.concatenate([*parts.values()])) == list(range(len(leaf))) and apart({k: set(group[o]) for k,o in parts.items()})
    assert set(leaf[parts['train']]) == set(leaf) and all((np.diff(o) > 0).all() for o in parts.values())
    for k,share in dict(valid=valid, test=test).items():
        largest = np.bincount(group).max()
        assert len(parts.get(k, ())) <= round(share*len(leaf))+largest/2

def test_groups_of_tables(tmp_path):
    file = table(tmp_path/'t', some(60, bird=[i//5 for i in range(60)], split=['train']*50+['test']*10))
    s = in_table(file, group='bird', valid=.2)
    assert apart(groups_of(s, lambda o: int(Path(o).stem)//5)) and sizes(s) == dict(train=40, valid=10, test=10) and s.args['group'] == 'bird'
    with pytest.raises(SourceError, match="no column 'brid'"): in_table(file, group='brid')
    torn = table(tmp_path/'u', some(60, bird=[i % 6 for i in range(60)], split=['train']*50+['test']*10))
    with pytest.warns(SourceWarning, match="6 groups with images in 'train' and in 'test', such as '0': what belongs together leaks"): in_table(torn, group='bird')
    missing = table(tmp_path/'v', some(6, bird=['a',None]*3))
    with pytest.raises(SourceError, match="'bird' is empty in row 1"): in_table(missing, group='bird')


# Targets that cross the labels

def test_a_target_by_leaf(tmp_path):
    tree(tmp_path/'f', 'dog/poodle', 'dog/beagle', 'cat/tabby')
    fur = dict(poodle='grey', beagle='brown', tabby='grey')
    s = opened(tmp_path/'f', target=fur)
    assert {o: s.target[o] for o in s.target.leaves} == fur and not s.level('depth 0').refines(s.target) and s.level('leaf').refines(s.target) and s.args['target'] == fur
    again = opened(tmp_path/'f', target=LabelMap(['tabby','poodle','beagle'], ['brown','grey'], [1, 1, 0]))
    assert again.target == s.target and again.args == s.args and Source.open('folder', **again.args, **again.where).target == s.target
    for target,says in ((fur | dict(tabby=''), "gives 'tabby' the class ''"), (dict(poodle='grey'), "2 of 3 leaves no class, such as 'beagle'"), (dict(poodle='a', beagle='b', tiger='c'), "such as 'tabby'; it has 'tiger', which is no leaf"),
                        (LabelMap(['tabby','poodle','beagle'], ['a','b'], ([0,2,3,4], [0,1,0,0])), 'several classes'), ('fur', "no level of 'folder' 'fur'")):
        with pytest.raises(SourceError, match=says): opened(tmp_path/'f', target=target)

@pytest.mark.parametrize('label', ['label', ['kind','breed']])
def test_a_target_by_column(tmp_path, label):
    fur = ['grey','brown','grey','brown','brown','grey']*2
    file = table(tmp_path/'t', some(fur=fur, kind=['dog','dog','cat']*4, breed=['poodle','beagle','tabby']*4, size=['large','small','small']*4))
    s,plain = in_table(file, label=label, target='fur'),in_table(file, label=label)
    rows = [int(Path(o).stem) for o in s.split('train').files.relative()]
    assert [s.target.vocab[s.target.codes[o]] for o in s.split('train').leaf] == [fur[i] for i in rows]
    for k,m in plain.levels.items(): assert [m.vocab[m.codes[o]] for o in plain.split('train').leaf] == [s.level(k).vocab[s.level(k).codes[o]] for o in s.split('train').leaf], 'levels stay what they were'
    assert s.hierarchy.leaves == ('beagle, brown','poodle, brown','poodle, grey','tabby, grey') and s.level('fur') == s.target and s.unit == [*plain.levels][0] and s.target_for(s.level(s.unit), 'fur') == s.target
    assert Source.open('table', **s.args, **s.where).target == s.target and s.args['target'] == 'fur'
    by_breed = in_table(file, label=label, target='size')
    assert by_breed.hierarchy == plain.hierarchy and by_breed.unit is None and {o: by_breed.target[o] for o in by_breed.target.leaves} == dict(poodle='large', beagle='small', tabby='small')
    with pytest.raises(SourceError, match="no level of 'table' 'colour'"): in_table(file, label=label, target='colour')

def test_a_study_of_a_target_that_crosses(tmp_path):
    from granularity_nb.study.plan import Plan, StudyError, runs
    file = table(tmp_path/'t', some(48, fur=['grey','brown']*24) | dict(label=['dog/poodle','dog/beagle','cat/tabby','cat/lion']*12, fur=(['grey']*4+['brown']*4)*6))
    args = dict(root=str(file), target='fur', size=4, valid=.2, test=.2)
    with pytest.warns(UserWarning, match="label map 'leaf' has classes that lie in several target classes: readout left out"): rs = runs(Plan(data='table', data_args=args, maps=('leaf','depth 0','fur','level:0','random-groups-across:depth 0','random-splits:8','image'), transfers=('readout','probe','finetune'), seeds=(0,), splits=('valid',)))
    assert {r.map: 'readout' in r.transfers for r in rs if r.map != 'direct'} == dict(leaf=False) | {'depth 0':False, 'fur':True, 'level:0':True, 'random-groups-across:depth 0':False, 'random-splits:8':True, 'image':True}
    with pytest.raises(StudyError, match="'leaf' has classes that lie in several target classes, so that readout cannot be done"): runs(Plan(data='table', data_args=args, maps=('leaf',), transfers=('readout',), seeds=(0,), splits=('valid',)))


# What is left out

def test_files_that_are_not_read_are_counted_and_named(tmp_path):
    root = tree(tmp_path/'f', 'dog/poodle', 'cat')
    for i in range(50): (root/'cat'/f'IMG_{i}.HEIC').write_bytes(b'x')
    for o in ('cat/clip.mp4','cat/1','notes.txt','cat/labels.json','README','dog/.DS_Store','dog/poodle/more.zip'): (root/o).write_text('x')
    for o in ('fish/koi','fish/carp','dog/beagle'): (root/o).mkdir(parents=True)
    (root/'fish'/'koi'/'list.txt').write_text('x')
    said = r"folder: .*f holds 53 files not read \((?=.*50 \.heic)(?=.*1 \.mp4)(?=.*1 no ending)(?=.*1 \.zip).*\), such as cat/.* and 2 folders without images, such as dog/beagle; .*\.jpeg"
    with pytest.warns(SourceWarning, match=said): s = opened(root)
    assert names(s) == ['cat','poodle'] and sizes(s) == dict(train=8)
    with pytest.raises(SourceError, match=said+'.*strict=False'): opened(root, strict=True)
    with pytest.warns(HierarchyWarning, match='folder with no images: .*left out'): assert folders(root).leaves == ('cat','poodle')

def test_what_lies_beside_folders_of_images_is_no_image(tmp_path):
    root = tree(tmp_path/'f', 'n01/images', 'n02/images')
    for o in ('all.zip','all.tgz','net.pth','all.md5'): (root/o).write_text('x')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = opened(root)
        assert s.hierarchy.leaves == folders(root).leaves == ('n01','n02') and sizes(s) == dict(train=8)
        assert opened(root, ranks=['wnid']).target.vocab == ('n01','n02') and opened(root, ranks=['wnid','x'], group='x').hierarchy.leaves == ('n01','n02')

def test_folders_out_of_the_splits_are_not_looked_at(tmp_path, monkeypatch):
    from granularity_nb.data import source
    looked,size = [],source._bytes
    monkeypatch.setattr(source, '_bytes', lambda o: looked.append(os.fsdecode(o)) or size(o))
    with pytest.warns(SourceWarning, match='left out'): opened(tree(tmp_path/'f', 'Alpha/a', 'Alpha/b', 'Beta/a'), splits=dict(train='Alpha')).split('train').digest
    assert looked and not any('Beta' in o for o in looked)

@pytest.mark.parametrize('name,at', [('tiny-imagenet','train'), ('imagenet1k','train'), ('imagenet21k','train'), ('inat21','train_mini')])
def test_every_reader_says_what_it_leaves_out(tmp_path, name, at):
    args = any_source(name, tmp_path)
    some = next(o for o in (tmp_path/'f'/at).iterdir())
    (some/'x.heic').write_bytes(b'x')
    (tmp_path/'f'/at/'n00007846').mkdir()
    with pytest.warns(SourceWarning, match=f'{name}: .* holds 1 file not read .1 .heic., such as .*x.heic and 1 folder without images, such as {at}/n00007846'): s = Source.open(name, **args | (dict(size=None) if name[0] == 't' else {}))
    with pytest.raises(SourceError, match='1 .heic'): Source.open(name, strict=True, **args)

def test_official_validation_images_under_another_name_are_said(tmp_path):
    args = any_source('imagenet21k', tmp_path)
    (tmp_path/'f'/'val').rename(tmp_path/'f'/'validation')
    with pytest.warns(SourceWarning, match="'validation' in .* is not read; call the folder of validation images val"): Source.open('imagenet21k', **args)


# What a person needs to be told

@pytest.mark.parametrize('sep', [';','\t','|'])
def test_tables_as_spreadsheets_write_them(tmp_path, sep):
    assert sizes(in_table(table(tmp_path/'t', some(), sep=sep))) == dict(train=12)
    (tmp_path/'u.csv').write_text(f'path,b{sep}c\na,x\n')
    assert [*read_table(tmp_path/'u.csv')] == ['path',f'b{sep}c'], 'where there is a comma, that is it'

def test_windows_paths_and_homes(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    file = table(tmp_path/'t', some(path=[f'a/b/{i}.png' for i in range(12)]))
    t = pd.read_csv(file)
    for o in (t.path.str.replace('/', '\\'), '~/t/'+t.path, str(tmp_path/'t')+'/'+t.path):
        t.assign(path=o).to_csv(file, index=False)
        assert in_table(file).split('train').files.relative() == [f'a/b/{i}.png' for i in range(12)]
    s = Source.open('table', root='~/t', file=Path('~/t/t.csv'))
    assert s.where == dict(root=str(tmp_path/'t'), file=str(file)) and opened('~/t').where == dict(root=str(tmp_path/'t')) and folders('~/t').leaves == ('b',)
    monkeypatch.chdir(tmp_path)
    assert opened('t').where == dict(root=str(tmp_path/'t'))

NULLS = dict(Int64=lambda: pd.array([1, 2, None], dtype='Int64'), float=lambda: [1., 2., np.nan], string=lambda: pd.array(['a','b',None], dtype='string'), object=lambda: ['a','b',None], boolean=lambda: pd.array([True,False,None], dtype='boolean'), date=lambda: pd.to_datetime(['2020-01-01','2020-01-02',None]))
@pytest.mark.parametrize('kind', NULLS)
def test_empty_cells_of_every_type(tmp_path, kind):
    file = table(tmp_path/'t', some(3), 't.parquet')
    for k in ('path','label','split','group'):
        pd.read_parquet(file).assign(**{k: NULLS[kind]()}).to_parquet(tmp_path/'t'/'u.parquet')
        with pytest.raises(SourceError, match=f"column '{k}' is empty in row 2"): in_table(tmp_path/'t'/'u.parquet', **(dict(group='group') if k == 'group' else {}))

@pytest.mark.parametrize('label,says', [(['["dog"]'], "'\\[\"dog\"\\]', looks like JSON"), (["{'a': 1}"], 'looks like JSON')])
def test_labels_that_are_json(tmp_path, label, says):
    with pytest.raises(SourceError, match=says): in_table(table(tmp_path/'t', some(label=label*12)))

@pytest.mark.parametrize('cell', [['dog','poodle'], b'dog', dict(a=1)])
def test_cells_that_are_no_names(tmp_path, cell):
    with pytest.raises(SourceError, match="column 'label' holds .* in row 0 .*no name"): in_table(table(tmp_path/'t', some(label=[cell]*12), 't.parquet'))

@pytest.mark.parametrize('name,data,says', [('t.json', b'[{"path": "0.png"}]', 't.json holds JSON, no table'), ('t.csv', b'path,label\n', 'column names, but no rows'), ('t.csv', b'', 't.csv is empty'),
    ('t.csv', b'0.png,dog\n1.png,cat\n', 'is the first line one of column names'), ('t.csv', 'path,label\n'.encode('utf-16'), 'not UTF-8.*a table is'), ('t.xlsx', b'PK\x03\x04\xff', 'not UTF-8.*a table is')])
def test_files_that_are_no_tables(tmp_path, name, data, says):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(SourceError, match=says) as e: in_table(tmp_path/name)
    assert str(e.value).count(str(tmp_path/name)) == 1

def test_parquet_by_any_name(tmp_path):
    file = table(tmp_path/'t', some(), 't.parquet')
    assert sizes(in_table(file.rename(tmp_path/'t'/'t.pq'))) == dict(train=12)

@pytest.mark.parametrize('kw,label,says', [(dict(label=['breed','kind']), None, "'kind' is coarser than 'breed' before it, each of whose 3 names has one of it .*label=.…."), ({}, ['poodle/dog','beagle/dog','tabby/cat'], 'name 2 is coarser than name 1')])
def test_ranks_from_fine_to_coarse_are_said(tmp_path, kw, label, says):
    file = table(tmp_path/'t', some(kind=['dog','dog','cat']*4, breed=['poodle','beagle','tabby']*4) | (dict(label=label*4) if label else {}))
    with pytest.warns(SourceWarning, match=says): in_table(file, **kw)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        in_table(table(tmp_path/'u', some(kind=['dog','dog','cat']*4, breed=['poodle','beagle','tabby']*4)), label=['kind','breed'])

@pytest.mark.parametrize('k', ['root','cache'])
def test_an_empty_place_is_not_the_present_one(tmp_path, monkeypatch, k):
    monkeypatch.chdir(tree(tmp_path/'f', 'a', 'b'))
    with pytest.raises(SourceError, match=f"{k}='' is empty"): opened(**dict(root='.') | {k: ''})

def test_names_under_two_parents_are_said_unless_they_may_be(tmp_path):
    tree(tmp_path/'f', 'Greek/a', 'Latin/a')
    file = table(tmp_path/'t', some(label=['Greek/a','Latin/a']*6))
    for f,root in ((opened, tmp_path/'f'), (in_table, file)):
        with pytest.warns(SourceWarning, match="'a' .'Greek/a', 'Latin/a'.; if this is a mistake, correct it; shared=False says"): s = f(root)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            again = f(root, shared=False)
        assert s.hierarchy == again.hierarchy and s.hierarchy.n_leaves == 2
        with pytest.raises(SourceError, match='the classes of a data set form a tree'): f(root, shared=True)

def test_any_data_set_takes_another_target():
    s = Source.open('digits', n_train=20, n_valid=5, n_test=5, target='loops', steps=[['subsample', dict(n=10)]])
    assert s.target is not s.level('digit') and s.target == s.level('loops') and s.args['target'] == 'loops' and Source.open('digits', **s.args).target == s.target
    odd = {str(i): ['even','odd'][i % 2] for i in range(10)}
    s = Source.open('digits', n_train=20, n_valid=5, n_test=5, target=odd)
    assert s.target['7'] == 'odd' and not s.level('loops').refines(s.target) and s.args['target'] == odd and 'target' not in Source.open('digits', n_train=20).args
    for target,says in (('lops', "did you mean 'loops'"), (3, 'target must be the name of a level'), (dict(odd, x='y') | {'7': 1}, "gives '7' the class 1")):
        with pytest.raises(SourceError, match=says): Source.open('digits', target=target)

def test_rows_of_files_that_are_not_read(tmp_path):
    file = table(tmp_path/'t', some())
    for i in (3, 7): (tmp_path/'t'/f'{i}.heic').write_bytes(b'x'*i)
    t = pd.read_csv(file)
    t.assign(path=[o.replace('png', 'heic') if i in (3, 7) else o for i,o in enumerate(t.path)]).to_csv(file, index=False)
    with pytest.warns(SourceWarning, match="t.csv: 2 files with a name unlike an image's, such as '3.heic' in row 3; what is none of JPEG, PNG, .* will be left out"): in_table(file)
    with pytest.warns(SourceWarning, match='2 of 12 images cannot be used and are left out, such as 3.heic'): assert sizes(in_table(file, size=4)) == dict(train=10)

@pytest.mark.parametrize('text,value', [('splits=False', False), ('splits=false', False), ("splits={'train': 'a'}", dict(train='a')), ('splits={"train": "a"}', dict(train='a')), ("label=['kind','breed']", ['kind','breed']), ('group=[a-z]+', '[a-z]+'), ('target=True love', 'True love')])
def test_settings_as_messages_write_them(text, value):
    from granularity_nb.cli import _setting
    assert _setting(text)[1] == value

def test_labels_that_are_splits(tmp_path):
    file = table(tmp_path/'t', some(usage=['train','test']*6) | dict(label=['train/dog','train/cat','test/dog']*4))
    for kw in (dict(label='usage'), dict(splits={'train': 'x'}, label='label'), {}):
        with pytest.raises(SourceError, match='splits'): in_table(file, **kw)
    with pytest.raises(SourceError, match="the labels have 'test', 'train' where classes should be, which look like splits.*splits=False"): in_table(file, label='usage')
    assert in_table(file, label='usage', splits=False).target.vocab == ('test','train')
    assert in_table(table(tmp_path/'u', some(label=['bus','car','train']*4))).hierarchy.leaves == ('bus','car','train')

@pytest.mark.parametrize('name', [[], {}, None, 5, ['glyphs']])
def test_names_of_data_sets_are_texts(name):
    for f in (Source.open, source_arguments):
        with pytest.raises(SourceError, match='no data set'): f(name)


# What is said to a user who was nearly right

def tabled(root, text, **kw):
    for i in range(4): tree(root, f'i{i}', n=1)
    (root/'t.csv').write_text(text)
    return Source.open('table', root=root, file='t.csv', **dict(valid=0, test=0) | kw)

def test_a_target_that_is_none_is_answered_with_what_could_be(tmp_path):
    rows = 'path,label,scene\n'+''.join(f'i{i}/0.png,{"ab"[i%2]},{"xy"[i//2]}\n' for i in range(4))
    with pytest.raises(SourceError, match="'Sceen'; did you mean 'scene'"): tabled(tmp_path/'t', rows, target='Sceen')
    with pytest.raises(SourceError, match="'zzz'; there are: 'leaf', 'scene'$"): tabled(tmp_path/'t', rows, target='zzz')
    tree(tmp_path/'f', 'a', 'b')
    with pytest.raises(SourceError, match="'zzz'; there are: 'leaf'$"): opened(tmp_path/'f', target='zzz')
    assert opened(tmp_path/'f', target='depth 0').target.vocab == ('a','b'), 'still understood'

def test_a_star_is_one_folder(tmp_path):
    tree(tmp_path/'f', 'x/y/cam0', 'x/z/cam1')
    with pytest.raises(SourceError, match=r"'\*/cam0'; each \* is one folder; did you mean '\*/\*/cam0'"): opened(tmp_path/'f', splits={'train': '*/cam0'})
    with pytest.raises(SourceError, match=r"each \* is one folder; so deep there are: 'x/y', 'x/z'"): opened(tmp_path/'f', splits={'train': '*/q'})
    with pytest.raises(SourceError, match=r"none is so deep; there are: 'x/y/cam0'"): opened(tmp_path/'f', splits={'train': '*/*/*/q'})

def test_where_a_table_is_looked_for(tmp_path):
    tree(tmp_path/'t', 'i0')
    with pytest.raises(SourceError, match=r"file='no.csv' is looked for in root, .*t; root="): Source.open('table', root=tmp_path/'t', file='no.csv')

def test_an_empty_rank_has_three_ways_out(tmp_path):
    rows = 'path,kind,breed\n'+''.join(f'i{i}/0.png,{"ab"[i%2]},{"" if i == 1 else i}\n' for i in range(4))
    with pytest.raises(SourceError, match="'breed' is empty in row 1.*fill it, leave the row out, or write whole paths .*one column, which may differ in depth"): tabled(tmp_path/'t', rows, label=['kind','breed'])
    with pytest.raises(HierarchyError, match="'breed' is missing.*fill it, leave the row out, or write whole paths into one column, which may differ in depth"): Hierarchy.from_table(dict(kind=['a','b'], breed=['x','']), ['kind','breed'])
    with pytest.raises(HierarchyError, match='repeats an earlier row: a / x; give one row a leaf'): Hierarchy.from_table(dict(kind=['a','a'], breed=['x','x']), ['kind','breed'])

def test_hidden_images_are_named(tmp_path):
    tree(tmp_path/'f', 'a', n=1)
    (tmp_path/'f/a/0.png').rename(tmp_path/'f/a/.00.png')
    with pytest.raises(SourceError, match=r"no images but hidden ones, such as '\.00\.png': files whose names begin with a dot are skipped"): opened(tmp_path/'f')
