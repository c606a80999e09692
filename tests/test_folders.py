"What is split, class or group in a tree of folders or a table; arguments that are none; targets that cross the labels."
import itertools, shutil, warnings
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
    (['trainA','trainB','testA'], {'trainA':'?', 'trainB':'?', 'testA':'?'}), (['bullet_train','steam_train'], {}), (['bus','train'], dict(train='train')), ([], {})])
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
    assert [str(o.message) for o in said] == (["folder: 1 folders are in none of the splits and are left out, such as 'car/sedan'"] if 'sedan' in paths[-1] else [])
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

def test_cells_that_are_said_to_be_splits(tmp_path):
    file = table(tmp_path/'t', some(fold=[1,2,3]*4))
    with pytest.warns(SourceWarning, match="4 rows are in none of the splits and are left out, such as those with '3'"): s = in_table(file, split='fold', splits=dict(train=[1], val='2'), label='label')
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
