"Taxonomies: every rank right on made-up trees in each format, round trips, CIFAR-100 against the usual table, and each fault by its message."
import csv, json, os, subprocess, sys, warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, HierarchyWarning, LabelMap
from granularity_nb.labels.taxonomy import Taxonomy, by_path, cifar100, folders, inat21, supercategory, table

RANKS = 'kingdom','phylum','class','order','family','genus','species'
FIELDS = RANKS[:-1]+('specific_epithet',)
GROUPS = dict(Insecta='Insects', Arachnida='Arachnids', Actinopterygii='Ray-finned Fishes', Amphibia='Amphibians', Reptilia='Reptiles',
              Aves='Birds', Mammalia='Mammals', Mollusca='Mollusks', Plantae='Plants', Fungi='Fungi', Animalia='Animalia')

few = settings(max_examples=25)

def prefix(rows, k): return [tuple(r[:k]) if k<7 else tuple(r[:6])+(f'{r[5]} {r[6]}',) for r in rows]
def directories(rows): return [f'{i:05d}_'+'_'.join(r) for i,r in enumerate(rows)]
def categories(rows, group=None):
    return [dict(zip(FIELDS, r), id=i, name=f'{r[5]} {r[6]}', common_name='', image_dir_name=d, **(dict(supercategory=group(r)) if group else {}))
            for i,(r,d) in enumerate(zip(rows, directories(rows)))]

def group(row):
    "The supercategory of a row, by hand."
    return GROUPS.get(row[2] if row[2] in ('Insecta','Arachnida','Actinopterygii','Amphibia','Reptilia','Aves','Mammalia') else
                      row[1] if row[1]=='Mollusca' else row[0], row[0])

def pick(*names): return st.sampled_from(names)
# few names, also shared between ranks, so that they recur under other parents and at other depths
some = pick('Alba','Beta','Gamma','Morus')
ROWS = st.lists(st.tuples(pick('Animalia','Plantae','Fungi','Chromista'), pick('Mollusca','Chordata','Alba'), pick('Insecta','Aves','Reptilia','Beta'),
                          some, some, some, pick('alba','beta','vulgaris')), min_size=1, max_size=12, unique=True).map(sorted)


# iNaturalist

@few
@given(ROWS)
def test_every_rank_is_right(rows):
    t = inat21(directories(rows))
    assert t.hierarchy.ranks==RANKS and t.hierarchy.n_leaves==len(rows) and t.hierarchy.is_tree
    for k,rank in enumerate(RANKS, 1):
        want = prefix(rows, k)
        m = t.hierarchy.rank(rank).after(t.labels)
        got = [m[d] for d in directories(rows)]
        assert len(set(got))==len(set(want))==len(set(zip(got, want)))==t.hierarchy.rank(rank).n_classes
        assert all(g.rpartition('/')[2]==w[-1] for g,w in zip(got, want))

@few
@given(ROWS, st.randoms(use_true_random=False))
def test_four_ways_to_the_same_taxonomy(rows, random):
    names,cats = directories(rows),categories(rows, group)
    want = inat21(names)
    random.shuffle(cats)
    mixed = random.sample(names, len(names))
    class Stub: version,all_categories = '2021_valid',names
    for source in mixed, iter(mixed), Stub(), cats, dict(categories=cats, images=[]): assert inat21(source)==want
    assert want.labels.leaves==tuple(names)

@few
@given(ROWS)
def test_supercategories(rows):
    t = inat21(directories(rows))
    assert [t.target.after(t.labels)[d] for d in directories(rows)]==list(map(group, rows))
    assert supercategory(t.hierarchy)==t.target and t.target.vocab==tuple(sorted(set(map(group, rows))))
    assert t.hierarchy.rank('class').refines(t.target)

@few
@given(ROWS)
def test_the_files_own_supercategory_is_the_target(rows):
    own = lambda r: f'super {len(r[3])%2}'
    t = inat21(categories(rows, own))
    assert t.target.name=='supercategory' and [t.target.after(t.labels)[d] for d in directories(rows)]==list(map(own, rows))
    assert inat21(categories(rows)).target==supercategory(t.hierarchy)

HOMONYMS = [('Animalia','Chordata','Aves','Suliformes','Sulidae','Morus','bassanus'), ('Plantae','Tracheophyta','Magnoliopsida','Rosales','Moraceae','Morus','alba'),
            ('Plantae','Tracheophyta','Magnoliopsida','Rosales','Moraceae','Ficus','carica')]

def test_a_gannet_is_no_mulberry():
    h = inat21(directories(HOMONYMS)).hierarchy
    assert h.rank('genus').vocab==('Ficus','Moraceae/Morus','Sulidae/Morus') and h.leaves==('Ficus carica','Morus alba','Morus bassanus')
    assert h.ancestors('Morus bassanus')==('Animalia','Aves','Chordata','Sulidae','Sulidae/Morus','Suliformes')

def test_label_numbers_are_not_leaf_codes():
    t = inat21(directories(HOMONYMS))
    assert t.labels.codes.tolist()==[2,1,0] and isinstance(t, Taxonomy) and isinstance(t.labels, LabelMap)
    assert t.target.encode(t.labels.codes).tolist()==[0,1,1] and t.target.vocab==('Birds','Plants')

def test_ids_need_not_be_complete():
    cats = categories(HOMONYMS)
    assert inat21(cats[1:]).labels.leaves==tuple(directories(HOMONYMS)[1:])

def made(root, names, file='a.jpg'):
    for o in names:
        (root/o).mkdir(parents=True)
        if file: (root/o/file).touch()
    return root

def test_folder_and_file(tmp_path):
    want = inat21(directories(HOMONYMS))
    made(tmp_path/'val', directories(HOMONYMS))
    (tmp_path/'val'/'.cache').mkdir()
    (tmp_path/'val'/'README').touch()
    (tmp_path/'val.json').write_text(json.dumps(dict(categories=categories(HOMONYMS, group))), encoding='utf-8')
    assert inat21(tmp_path/'val')==inat21(str(tmp_path/'val'))==inat21(tmp_path/'val.json')==want

def test_torchvision(tmp_path):
    "Its class numbers are our labels; its ranks go by name and so merge the two genera Morus, where ours do not."
    tv = pytest.importorskip('torchvision.datasets').INaturalist
    made(tmp_path/'2021_valid', directories(HOMONYMS))
    d = tv(str(tmp_path), version='2021_valid', target_type='full')
    t = inat21(d)
    assert t==inat21(tmp_path/'2021_valid') and [t.labels.leaves[o] for o,_ in d.index]==[d.category_name('full', o) for o,_ in d.index]
    for rank in RANKS[:-1]:
        m = t.hierarchy.rank(rank).after(t.labels)
        assert [m[o].rpartition('/')[2] for o in m.leaves]==[d.category_name(rank, d.categories_map[i][rank]) for i in range(3)]
    assert len(d.categories_index['genus'])==2 and t.hierarchy.rank('genus').n_classes==3

CATS = categories(HOMONYMS, group)
def without(k, i=1): return [{a:b for a,b in o.items() if a!=k or o['id']!=i} for o in CATS]
def changed(i=1, **kw): return [{**o, **kw} if o['id']==i else o for o in CATS]

@pytest.mark.parametrize('source,message', [
    ([], 'no directories'), (['train'], "'train' is not named like '00000_Kingdom"), (['00000_A_B_C_D_E_F'], 'not named like'), (['x_A_B_C_D_E_F_g'], 'not named like'),
    ([7], '7 is not named like'), (['00000_A_B_C_D_E_F_g_h'], 'not named like'),
    (['00000_A__C_D_E_F_g', '00001_A_B_C_D_E_F_g'], "'phylum' is missing in '00000_A__C_D_E_F_g'; .*leave the species out"),
    (['00000_A_B_C_D_E_F_g', '00001_A_B_C_D_E_F_g'], "'00001_A_B_C_D_E_F_g' repeats '00000_A_B_C_D_E_F_g'.*remove one"),
    (['00000_A_B_C_D_E/x_F_g'], "has a '/' in it"),
    (dict(images=[]), "no 'categories', only 'images'; take"), (dict(categories=[]), 'one for each species'), (dict(categories=3), 'one for each species'),
    (without('family'), r"'family' is missing in category 1 \(Morus alba\); .*2021"), (changed(order='  '), "'order' is missing in category 1"),
    (changed(genus=None), "'genus' is missing in category 1"), (without('image_dir_name'), "'image_dir_name' is missing in category 1"),
    ([{a:b for a,b in o.items() if a in ('id','name','supercategory')} for o in CATS], "'kingdom' is missing in .*files of 2021"),
    (without('supercategory'), "'supercategory' is missing in category 1.*for none"), (without('id'), r"'id' is missing in category number 1 \(Morus alba\)"),
    (changed(id=2), r"category 2 \(Ficus carica\) repeats category 2 \(Morus alba\)"), (changed(genus=5), r'texts, which they are not in category 1'),
    (changed(supercategory=5), 'texts, which they are not in category 1'), (changed(id='1'), r'whole numbers .* category 1')])
def test_bad_species(source, message):
    with pytest.raises(HierarchyError, match=message): inat21(source)

def test_old_versions_of_torchvision_have_no_ranks():
    class Stub: version,all_categories = '2018',['Aves/0','Aves/1']
    with pytest.raises(HierarchyError, match="version '2018' .* needs '2021_train'"): inat21(Stub())

def test_bad_files_of_species(tmp_path):
    f = tmp_path/'val.json'
    for data,message in (b'', 'broken JSON.*download it again'), (b'{"categories": [', 'broken JSON'), (b'"caf\xe9"', 'not UTF-8.*JSON in UTF-8'), (b'3', "val.json: .*'categories' must be a list"), (b'{"a": 1}', "val.json: there are no 'categories'"):
        f.write_bytes(data)
        with pytest.raises(HierarchyError, match=message): inat21(f)
    with pytest.raises(HierarchyError, match='none.json cannot be read .No such file'): inat21(tmp_path/'none.json')

def test_bad_folders_of_species(tmp_path):
    with pytest.raises(HierarchyError, match='holds no folders; inat21 takes'): inat21(tmp_path)
    made(tmp_path/'val', directories(HOMONYMS))
    with pytest.raises(HierarchyError, match="'val' is not named like"): inat21(tmp_path)
    (tmp_path/'val'/directories(HOMONYMS)[1]/'a.jpg').rename(tmp_path/'val'/directories(HOMONYMS)[1]/'a.txt')
    with pytest.warns(HierarchyWarning, match='val: folder with no images: 00001_Plantae.*, left out'): t = inat21(tmp_path/'val') # as `Source.open` does
    assert t.hierarchy.n_leaves==len(HOMONYMS)-1 and directories(HOMONYMS)[1] not in t.labels.leaves
    for o in (tmp_path/'val').glob('*/a.jpg'): o.unlink()
    with pytest.raises(HierarchyError, match='val: folder with no images: 00000_.*; unpack'): inat21(tmp_path/'val')


# Tables and paths

name = st.text('abcäЖ語,"\' ', min_size=1, max_size=4).map(str.strip).filter(bool)

@few
@given(st.lists(st.tuples(name, name, name), min_size=1, max_size=10, unique=True), st.randoms(use_true_random=False))
def test_tables_round_trip(tmp_path_factory, rows, random):
    pd,where = pytest.importorskip('pandas'),tmp_path_factory.getbasetemp()
    ranks = ['top','mid','low']
    want = table(dict(zip(ranks, zip(*rows))), ranks=ranks)
    for k,r in enumerate(ranks, 1): assert want.rank(r).n_classes==len({o[:k] for o in rows})
    assert sorted(by_path(want).leaves)==sorted('/'.join(o) for o in rows)
    random.shuffle(rows)
    with open(where/'t.csv', 'w', encoding='utf-8', newline='') as f: csv.writer(f).writerows([ranks[::-1], *(o[::-1] for o in rows)])
    assert table(pd.DataFrame(rows, columns=ranks), ranks=ranks)==table(where/'t.csv', ranks=ranks)==want

def test_parquet_round_trip(tmp_path):
    pytest.importorskip('pyarrow')
    df = pytest.importorskip('pandas').DataFrame(HOMONYMS, columns=RANKS)
    df.to_parquet(tmp_path/'t.parquet')
    assert table(tmp_path/'t.parquet', ranks=RANKS)==table(df, ranks=RANKS)==table(str(tmp_path/'t.parquet'), ranks=df.columns)

part = pick('cat','dog','red','one','two')
PATHS = st.lists(st.lists(part, min_size=1, max_size=4).map(tuple), min_size=1, max_size=10, unique=True)

@few
@given(PATHS, pick('/', '>', ' / '))
def test_paths_round_trip(paths, sep):
    h = table(dict(p=[sep.join(o) for o in paths]), path='p', sep=sep)
    m = by_path(h)
    assert sorted(m.leaves)==sorted('/'.join(o) for o in paths) and h.n_leaves==len(paths) and m.vocab==h.leaves
    assert all(m['/'.join(o)].rpartition('/')[2]==o[-1] for o in paths)
    for o in paths: assert len(h.ancestors(m['/'.join(o)]))==len(o)-1
    top = by_path(table(dict(p=[sep.join(o) for o in paths]), path='p', sep=sep, root='everything'), skip='everything')
    assert top.leaves==m.leaves

@settings(max_examples=15)
@given(PATHS)
def test_folders_round_trip(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp('images')
    for o in paths:
        (root/'/'.join(o)).mkdir(parents=True, exist_ok=True)
        (root/'/'.join(o)/'1.PNG').touch()
    assert sorted(by_path(folders(root)).leaves)==sorted('/'.join(o) for o in paths)
    (root/'top.jpg').touch()
    assert sorted(by_path(folders(root, root='all'), skip='all').leaves)==sorted(['.']+['/'.join(o) for o in paths])

def test_a_root_is_set_above():
    assert table(dict(a=['x','y'], b=['p','q']), ranks=['a','b'], root='all').roots==table(dict(p=['x/p','y/q']), path='p', root='all').roots==('all',)

def test_numbers_are_names(): assert table(dict(a=[1,1], b=[2,3]), ranks=['a','b']).leaves==('2','3')

def missing():
    pd = pytest.importorskip('pandas')
    return [(pd.DataFrame(dict(a=list('xyz'), b=['p',o,'q'])), dict(ranks=['a','b'])) for o in (None, float('nan'), pd.NA, pd.NaT, '', ' ')]

def test_missing_ranks_are_named():
    for df,kw in missing():
        with pytest.raises(HierarchyError, match=r"'b' is missing in row 1; fill it, leave the rows out, or"): table(df, **kw)
    with pytest.raises(HierarchyError, match=r"'a' is missing in row 0 \(l0\), row 1 \(l1\), row 2 \(l2\), row 3 \(l3\), row 4 \(l4\) … \(7 in all\)"):
        table(dict(a=[None]*7, b=[f'l{i}' for i in range(7)]), ranks=['a','b'])

T = dict(a=['x','y'], b=['p','q'])
@pytest.mark.parametrize('source,kw,message', [
    (T, {}, 'say where the names are'), (T, dict(ranks=['a'], path='b'), 'say where the names are'), (T, dict(ranks=[]), 'say where'), (T, dict(ranks='a'), "path='a'"),
    (T, dict(ranks=['a','c']), "no column 'c', only 'a', 'b'; name the columns"), (T, dict(path='c'), "no column 'c'"), (T, dict(ranks=['a','a']), "column 'a' is there twice"),
    (dict(a=[], b=[]), dict(ranks=['a','b']), 'no rows; it needs one row for each leaf'), (dict(a=['x'], b=['p','q']), dict(ranks=['a','b']), 'different lengths: a 1, b 2'),
    (dict(a=['x','y','x'], b=['p','q','p']), dict(ranks=['a','b']), r'row 2 \(p\) repeats row 0 \(p\): x / p; .*remove one'),
    (dict(p=['x/a','x / a']), dict(path='p'), r'row 1 \(x / a\) repeats row 0'), (dict(p=['x/a','x//b','/c']), dict(path='p'), r"empty in row 1 \(x//b\), row 2 \(/c\); take out"),
    (dict(p=['x', None]), dict(path='p'), "'p' is missing in row 1")])
def test_bad_tables(source, kw, message):
    with pytest.raises(HierarchyError, match=message): table(source, **kw)
    pd = pytest.importorskip('pandas')
    if len({len(o) for o in source.values()})==1:
        with pytest.raises(HierarchyError, match=message): table(pd.DataFrame(source), **kw)

def test_a_column_twice():
    pd = pytest.importorskip('pandas')
    with pytest.raises(HierarchyError, match="column 'a' is there twice"): table(pd.DataFrame([['x','y']], columns=['a','a']), ranks=['a'])

@pytest.mark.parametrize('file,data,message', [
    ('t.csv', b'', 't.csv is empty; a table is a UTF-8 .csv'), ('t.csv', b'a,b\nx,caf\xe9\n', 't.csv is not UTF-8.*; a table is'), ('t.csv', b'a,b\nx\n', 't.csv.*a table is'),
    ('t.csv', b'a,b\n', 't.csv: no leaves: .*no rows'), ('t.csv', b'a,b\nx,\n', r"t.csv: 'b' is missing in row 0"), ('t.csv', b'a,c\nx,y\n', "t.csv: there is no column 'b', only 'a', 'c'"),
    ('t.csv', b'a,b\nx,"y\n', r't.csv cannot be read \(.*a table is'), ('t.parquet', b'', r't.parquet cannot be read \(.*a table is'), ('t.parquet', b'PAR1'*9, 't.parquet cannot be read')])
def test_bad_table_files(tmp_path, file, data, message):
    if file.endswith('parquet'): pytest.importorskip('pyarrow')
    (tmp_path/file).write_bytes(data)
    with pytest.raises(HierarchyError, match=message): table(tmp_path/file, ranks=['a','b'])

def test_bad_folders(tmp_path):
    with pytest.raises(HierarchyError, match='none is not a folder'): folders(tmp_path/'none')
    with pytest.raises(HierarchyError, match='folder with no images: .*; put images there'): folders(tmp_path)
    made(tmp_path, ['cat'], 'a.jpg')
    made(tmp_path, ['dog/poodle'], 'notes.txt')
    with pytest.warns(HierarchyWarning, match='folder with no images: .*dog.*, left out'): assert folders(tmp_path).leaves==('cat',)
    assert folders(tmp_path, types=['.jpg','.txt']).leaves==('cat','poodle')

def test_files_that_are_not_read_are_said(tmp_path):
    made(tmp_path, ['cat','dog'], 'a.jpg')
    for o in ('cat/b.HEIC','cat/notes.txt','dog/c.heic','models.zip','net.pth'): (tmp_path/o).write_bytes(b'')
    with pytest.warns(HierarchyWarning, match=r'2 files not read \(2 .heic\), such as cat/b.HEIC; images are known by their endings: .jpg') as said: assert folders(tmp_path).leaves==('cat','dog')
    assert len(said)==1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert folders(tmp_path, types=['.heic']).leaves==('cat','dog')

def test_a_last_folder_that_all_have_is_no_class(tmp_path):
    made(tmp_path, ['pet/cat/images','pet/dog/images','wild/images'], 'a.jpg')
    assert folders(tmp_path).leaves==('cat','dog','wild')
    made(tmp_path, ['wild/wolf'], 'a.jpg')
    assert len(folders(tmp_path, shared=False).leaves)==4

@pytest.mark.parametrize('file', ['none.csv','none.parquet','.'])
def test_a_table_that_cannot_be_read(tmp_path, file):
    with pytest.raises(HierarchyError, match='cannot be read .*a table is'): table(tmp_path/file, ranks=['a'])

def test_a_table_at_home_and_from_fine_to_coarse(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    (tmp_path/'t.csv').write_text('kind,breed\ndog,poodle\ndog,beagle\ncat,tabby\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert table('~/t.csv', ranks=['kind','breed']).leaves==('beagle','poodle','tabby')
    with pytest.warns(HierarchyWarning, match="'kind' is coarser than 'breed' before it .'poodle': 'dog'.: is the order from fine to coarse"): table('~/t.csv', ranks=['breed','kind'], shared=False)
    with pytest.warns(HierarchyWarning, match='name 2 is coarser than name 1'): table(dict(p=['poodle/dog','beagle/dog','tabby/cat']), path='p', shared=False)

def test_by_path_refuses_what_has_no_path():
    with pytest.raises(HierarchyError, match='needs a tree'): by_path(Hierarchy.from_edges([('poodle','dog'), ('poodle','pet')]))
    with pytest.raises(HierarchyError, match="leaf 'a/b' has a '/' in its own name.*rename"): by_path(Hierarchy.from_edges([('a/b','c')]))
    with pytest.raises(HierarchyError, match="skip='pet' is not the root; the roots are 'dog'"): by_path(Hierarchy.from_edges([('poodle','dog')]), skip='pet')


# CIFAR-100

# names in the order of their numbers, and fine label → coarse label, as the data files have them
FINE = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
SUPER = """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture insects large_carnivores
large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles
small_mammals trees vehicles_1 vehicles_2""".split()
COARSE = [4,1,14,8,0,6,7,7,18,3,3,14,9,18,7,11,3,9,7,11,6,11,5,10,7,6,13,15,3,15,0,11,1,10,12,14,16,9,11,5,5,19,8,8,15,13,14,17,18,10,16,4,17,4,2,0,17,4,18,17,
          10,3,2,12,12,16,12,1,9,19,2,10,0,1,16,12,9,13,15,13,16,19,2,4,6,19,5,5,8,19,18,1,2,15,6,0,17,8,14,13]

def test_cifar100_has_the_numbers_of_the_data_files():
    t = cifar100()
    assert t.target.encode(t.labels.codes).tolist()==COARSE and t.labels.codes.tolist()==list(range(100))
    assert t.hierarchy.ranks==('superclass','class') and np.bincount(t.target.codes).tolist()==[5]*20 and t.target==t.hierarchy.rank('superclass')
    assert t.labels.leaves==t.hierarchy.leaves==tuple(FINE) and t.target.vocab==tuple(SUPER) and t.target['worm']=='non-insect_invertebrates'

class Data:
    def __init__(self, classes, index=None): self.classes,self.class_to_idx = classes,index or {o:i for i,o in enumerate(classes)}

@few
@given(st.permutations(range(100)))
def test_cifar100_in_any_order(order):
    usual = cifar100()
    names = [usual.hierarchy.leaves[i] for i in order]
    for source in names, Data(names), {o:i for i,o in sorted(enumerate(names), key=lambda o: o[1])}:
        t = cifar100(source)
        assert t.hierarchy==usual.hierarchy and t.target==usual.target and t.labels.codes.tolist()==list(order) and t.labels.leaves==tuple(names)

def test_cifar100_from_the_text_file(tmp_path):
    (tmp_path/'fine_label_names.txt').write_text('\n'.join(cifar100().hierarchy.leaves)+'\n\n', encoding='utf-8')
    assert cifar100(tmp_path/'fine_label_names.txt')==cifar100()

NAMES = list(cifar100().hierarchy.leaves)
@pytest.mark.parametrize('source,message', [
    (NAMES[:99], 'worm: not among the 99 classes given'), (NAMES+['tiger shark'], "unknown leaf 'tiger shark'"), (NAMES+['apple'], "'apple' is given twice"), ([], 'not among the 0'),
    (['aquarium fish' if o=='aquarium_fish' else o for o in NAMES], "did you mean 'aquarium_fish'"),
    (Data(NAMES, {o:i for i,o in enumerate(NAMES[::-1])}), "contradicts itself.*'apple'; give"), ({o:i+1 for i,o in enumerate(NAMES)}, "must number the classes 0, 1, 2.*'apple': 1")])
def test_bad_classes(source, message):
    with pytest.raises(HierarchyError, match=message): cifar100(source)

def test_a_pickle_is_never_opened(tmp_path, monkeypatch):
    import pickle
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    (tmp_path/'meta').write_bytes(pickle.dumps(dict(fine_label_names=Trap()), 2))
    with pytest.raises(HierarchyError, match='meta is a pickle.*never opened; give the data set'): cifar100(tmp_path/'meta')
    (tmp_path/'old').write_bytes(pickle.dumps(dict(fine_label_names=Trap()), 0))
    with pytest.raises(HierarchyError, match='unknown leaf'): cifar100(tmp_path/'old')
    assert not (tmp_path/'sprung').exists()
    with pytest.raises(HierarchyError, match='is not a file; give'): cifar100(tmp_path)


def test_import_is_light():
    code = "import sys; import granularity_nb.labels.taxonomy; print([o for o in ('pandas','torch','torchvision','matplotlib','fastcore','pyarrow') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'

def test_json_that_cannot_be_read(tmp_path):
    for text,message in ('['*200_000, 'nested too deeply'),('1'*5000, 'broken JSON'),('{"categories": ', 'broken JSON'),('NaN', 'categories'):
        (tmp_path/'val.json').write_text(text)
        with pytest.raises(HierarchyError, match=message): inat21(tmp_path/'val.json')
    for bad in None,3:
        with pytest.raises(HierarchyError, match='neither directories'): inat21(bad)

def test_pyarrow_tables_and_multiindex_columns():
    pd,pa = pytest.importorskip('pandas'),pytest.importorskip('pyarrow')
    cols = dict(a=['x','x'], b=['1','2'])
    want = table(cols, ranks=['a','b'])
    df = pd.DataFrame(cols)
    df.columns = pd.MultiIndex.from_tuples([('t','a'), ('t','b')])
    assert table(pa.table(cols), ranks=['a','b'])==want and table(df, ranks=list(df.columns)).ranks==('t/a','t/b')
    with pytest.raises(HierarchyError, match="'b' is missing in row 1"): table(pa.table(dict(a=['x','x'], b=['1',None])), ranks=['a','b'])
    with pytest.raises(HierarchyError, match='a table is'): table([1], path='p')
