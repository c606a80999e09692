"Contracts and faults of `Split`, `Source` and the registry."
import os, subprocess, sys, warnings
import numpy as np, pytest
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, LabelMap
from granularity_nb.data import source as source_module
from granularity_nb.data.source import Files, Rows, Source, SourceError, SourceWarning, Split, identity_args, register, source_arguments, source_names, stratified_order
from hypothesis import given, strategies as st

pets = Hierarchy.from_paths({'poodle': ['animal','dog'], 'beagle': ['animal','dog'],
                             'tabby': ['animal','cat'], 'persian': ['animal','cat']})

def images(n=5): return np.zeros((n,8,8), np.uint8)

def make(leaf=(0,1,2,3,3), **kw):
    args = dict(name='pets', hierarchy=pets, splits=dict(train=Split(images(len(leaf)), np.array(leaf))),
                target=pets.level(1), levels=dict(breed=pets.level(0), species=pets.level(1))) | kw
    return Source(**args)

@pytest.fixture
def registry(monkeypatch): monkeypatch.setattr(source_module, '_makers', dict(source_module._makers))

def test_images_are_made_once_and_late():
    calls = []
    def paint():
        calls.append(1)
        return images(3)
    s = Split(paint, [0, 1, 2])
    assert len(s) == 3 and 'not made yet' in repr(s) and not calls
    assert s.images is s.images and calls == [1] and '8x8' in repr(s)

def test_colour_images_and_empty_splits():
    assert Split(np.zeros((2,8,8,3), np.uint8), [0, 0]).images.shape == (2,8,8,3)
    assert len(Split(images(0), [])) == 0

def test_leaves_are_a_private_int32_copy():
    given = np.array([0, 1], dtype=np.int64)
    s = Split(images(2), given)
    given[:] = 7
    assert s.leaf.dtype == np.int32 and s.leaf.tolist() == [0, 1]
    with pytest.raises(ValueError): s.leaf[0] = 1

@pytest.mark.parametrize('x,leaf,says', [
    (images(3), [0, 1], '3 images but 2 leaves'), (images(2).astype(float), [0, 1], 'float64'),
    (np.zeros((2,8), np.uint8), [0, 1], r'\(2, 8\)'), (images(2), [.5, 1.], 'float64'),
    (images(2), [[0], [1]], r'\(2, 1\)'), (images(2), ['a','b'], 'whole numbers')])
def test_split_refuses_what_does_not_fit(x, leaf, says):
    with pytest.raises(SourceError, match=says): Split(x, leaf)

def test_a_function_that_makes_too_few_images_is_found_out():
    with pytest.raises(SourceError, match='1 images but 2 leaves'): Split(lambda: images(1), [0, 1]).images

def test_classes_follow_from_leaves():
    s = make()
    m = s.level('species')
    assert [m.vocab[c] for c in m.encode(s.split('train').leaf)] == ['dog','cat','dog','cat','cat']
    assert "train 5" in repr(s) and '2 classes' in repr(s)

def test_image_level_maps():
    s = make()
    m = s.leaf_map('train')
    assert m.leaves == s.ids('train') and m['train/000004'] == 'tabby'
    on_images = s.level('species').after(m)
    assert on_images.leaves == m.leaves
    assert [on_images[i] for i in on_images.leaves] == ['dog','cat','dog','cat','cat']

def test_the_target_for_a_label_map_speaks_of_what_that_speaks_of():
    s = make()
    breed,items = s.level('breed'),LabelMap.identity(s.ids('train'))
    assert s.target_for(breed) is s.target and s.target_for(s.level('species'), breed) is breed
    for target in (s.target, breed):
        got = s.target_for(items, target)
        assert got.leaves == s.ids('train') and [got[i] for i in got.leaves] == [target[s.hierarchy.leaves[o]] for o in s.split('train').leaf]
        assert items.refines(got)
    assert s.target_for(items) == s.target_for(items, s.target) and s.target_for(s.target.after(s.leaf_map('train'))).leaves == items.leaves

def test_the_target_for_a_map_of_another_source_is_refused():
    s = make()
    for other in (LabelMap.identity(make([0]*4).ids('train')), LabelMap(['wolf'], ['dog'], [0])):
        with pytest.raises(SourceError, match="neither of the 4 leaf labels of 'pets' nor of its 5 training images"): s.target_for(other)
    with pytest.raises(HierarchyError, match='is not a leaf of'): s.target_for(LabelMap.identity(s.ids('train')), LabelMap(['wolf'], ['dog'], [0]))

def test_ids_sort_as_they_count():
    n = 1_000_003
    s = make(splits=dict(train=Split(lambda: images(n), np.zeros(n, np.int32))))
    ids = s.ids('train')
    assert len(set(ids)) == n and list(ids) == sorted(ids)

@pytest.mark.parametrize('leaf', [(0,4), (-1,0)])
def test_leaves_outside_the_hierarchy(leaf):
    with pytest.raises(SourceError, match="'train' of 'pets'.*0 … 3"): make(leaf)

@pytest.mark.parametrize('where', ['target','levels'])
def test_maps_of_other_leaves(where):
    other = Hierarchy.from_paths({'poodle': ['dog'], 'beagle': ['dog'], 'wolf': ['dog'], 'fox': ['dog']}).level(1)
    with pytest.raises(SourceError, match='map of other leaves'):
        make(**({'target': other} if where == 'target' else {'levels': dict(x=other)}))

def test_args_must_survive_json():
    assert make(args=dict(size=(1,2), name='x')).args == dict(size=[1,2], name='x')
    with pytest.raises(SourceError, match='JSON'): make(args=dict(f=len))

@pytest.mark.parametrize('call,says', [
    (lambda s: s.level('specie'), "did you mean 'species'"), (lambda s: s.level('zzz'), "there are: 'breed', 'species'"),
    (lambda s: s.split('tarin'), "did you mean 'train'"), (lambda s: s.level(1), 'no level'), (lambda s: s.ids('x'), 'no split')])
def test_wrong_names_are_answered_with_right_ones(call, says):
    with pytest.raises(SourceError, match=says): call(make())

def test_registry(registry):
    @register('pets')
    def make_pets(n=3): return make([0]*n, args=dict(n=n))
    assert 'pets' in source_names() and source_names() == sorted(source_names())
    s = Source.open('pets', n=4)
    assert len(Source.open('pets', **s.args).split('train')) == 4
    with pytest.raises(SourceError, match="no argument of data set 'pets' 'm'"): Source.open('pets', m=4)
    with pytest.raises(SourceError, match="did you mean 'pets'"): Source.open('pet')
    with pytest.raises(SourceError, match="no data set 'mnist'.*'glyphs'"): Source.open('mnist')

def test_a_maker_may_take_anything(registry):
    register('free')(lambda **kw: make(args=kw))
    assert Source.open('free', colour='red').args == dict(colour='red')

def test_identity_leaves_out_the_place_alone():
    "As a plan's digest does: these four, which data sets do take, and nothing else."
    takes = {o for name in ('folder','table','tiny-imagenet','imagenet1k','imagenet21k','inat21','cifar100','glyphs') for o in source_arguments(name)}
    place = takes-set(identity_args(dict.fromkeys(takes, 1)))
    assert place == {'root','cache','download','strict'} and identity_args({}) == {}
    args = dict(size=8, root='x', steps=[['subsample', dict(n=2)]])
    assert identity_args(args) == dict(size=8, steps=[['subsample', dict(n=2)]]) and 'root' in args

def test_labels_cost_no_torch_and_no_rendering():
    code = ("import sys; from granularity_nb.data.source import Source; s = Source.open('glyphs', n_train=50);"
            "s.leaf_map('train'); print(sorted({'torch','fastai','matplotlib','pandas'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout.strip() == '[]', out.stdout + out.stderr


# Rows, files, identity

def test_rows_look_like_an_array():
    x = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    r = Rows(Rows(x, [4, 2, 0]), [2, 0])
    assert r.shape == (2,3,4) and r.ndim == 3 and r.dtype == np.uint8 and len(r) == 2 and r.base is x
    for i in (0, -1, slice(None), np.array([1, 0]), np.array([True, False])): np.testing.assert_array_equal(r[i], x[[0, 4]][i])
    np.testing.assert_array_equal(np.asarray(r), x[[0, 4]])

@given(st.lists(st.tuples(st.sampled_from(['a','b/c','']), st.text(st.characters(exclude_characters='/\0', exclude_categories=['Cs']), min_size=1, max_size=8), st.integers(0, 2**40)), min_size=1, max_size=8, unique_by=lambda o: o[:2]))
def test_files_come_back(tmp_path_factory, rows):
    folders = sorted({o for o,_,_ in rows})
    f = Files('root', folders, [folders.index(o) for o,_,_ in rows], [o for _,o,_ in rows], [o for _,_,o in rows])
    assert f.relative() == [f'{a}/{b}' if a else b for a,b,_ in rows]
    path = tmp_path_factory.mktemp('files')/'f.parquet'
    f.save(path)
    g = Files.load(path, 'elsewhere')
    assert g.relative() == f.relative() and (g.size == f.size).all() and g.digest == f.digest
    wider = Files('root', folders+['z'], [*f.folder, len(folders)], [*(o for _,o,_ in rows), 'x'*40], [*f.size, 0])
    assert wider[:len(rows)].digest == f.digest != wider.digest

def test_files_that_links_lead_to(tmp_path):
    (tmp_path/'data'/'a').mkdir(parents=True)
    for o in ('1.png','2.JPG','3.txt','.4.png'): (tmp_path/'data'/'a'/o).write_bytes(b'x')
    (tmp_path/'other').mkdir()
    (tmp_path/'other'/'5.webp').write_bytes(b'xyz')
    (tmp_path/'data'/'b').symlink_to(tmp_path/'other')
    (tmp_path/'data'/'a'/'6.png').symlink_to(tmp_path/'nowhere.png')
    f = Files.find(tmp_path/'data')
    assert f.relative() == ['a/1.png','a/2.JPG','a/6.png','b/5.webp'] and f.size.tolist() == [1, 1, 0, 3]
    assert Files.find(tmp_path/'data', ['b']).relative() == ['b/5.webp']
    (tmp_path/'data'/'a'/'loop').symlink_to(tmp_path/'data')
    with pytest.raises(SourceError, match='is the same folder as'): Files.find(tmp_path/'data')
    with pytest.raises(SourceError, match='is not a folder'): Files.find(tmp_path/'none')

def test_sizes_are_looked_up_when_they_are_asked_for(tmp_path, monkeypatch):
    "A list from the cache knows names; what a file holds now decides the identity."
    from granularity_nb.data import source as module
    monkeypatch.setattr(module, '_many', 1)
    (tmp_path/'d'/'a').mkdir(parents=True)
    for i in range(3): (tmp_path/'d'/'a'/f'{i}.png').write_bytes(b'x'*(i+1))
    find = lambda: Files.find(tmp_path/'d', cache=tmp_path/'cache')
    first = find()
    digest,looked = first.digest,[]
    assert first.size.tolist() == [1, 2, 3] and digest == Files(tmp_path/'d', ['a'], [0]*3, ['0.png','1.png','2.png'], [1, 2, 3]).digest, 'as versions before had it'
    with open(tmp_path/'d'/'a'/'1.png', 'r+b') as f: f.write(b'longer') # in its place: no folder changes
    with monkeypatch.context() as m:
        m.setattr(module, '_walk', None)
        again = find()
    assert again.size.tolist() == [1, 6, 3] and again.digest != digest
    stat = os.stat
    monkeypatch.setattr(module.os, 'stat', lambda path, *a, **kw: looked.append(path) or stat(path, *a, **kw))
    assert find()[[2]].size.tolist() == [3] and sum(str(o).endswith("2.png'") for o in looked) == 1 and not any('1.png' in str(o) for o in looked), 'only of what is asked about'

def test_files_that_cannot_be_looked_at(tmp_path):
    (tmp_path/'self.png').symlink_to('self.png')
    (tmp_path/'1.png').write_bytes(b'x')
    f = Files.find(tmp_path)
    assert f.relative() == ['1.png','self.png'] and f.size.tolist() == [1, 0]
    for i in range(2):
        with pytest.raises(SourceError, match='1.png: corrupt|1.png: not an image' if not i else 'self.png: unreadable'): Split(f, [0, 0]).image(i)

def test_digest_tells_images_apart():
    x = np.random.RandomState(0).randint(0, 256, (9,4,4), dtype=np.uint8)
    a = Split(x, [0]*9)
    assert a.digest == Split(x.copy(), [1]*9).digest and a.digest == Split(Rows(x[::-1], np.arange(9)[::-1]), [0]*9).digest
    y = x.copy()
    y[8,3,3] ^= 1
    assert Split(y, [0]*9).digest != a.digest and Split(lambda: x, [0]*9).digest == ''
    assert Split(x.reshape(9,2,8), [0]*9).digest != a.digest

def test_statistics_of_a_split_that_is_sorted_by_class():
    x = np.repeat(np.array([0, 255], np.uint8), 8000)[:,None,None]
    mean,_ = Split(x, np.repeat([0, 1], 8000)).stats
    assert abs(mean[0]-.5) < .01

def test_studies_tell_images_apart():
    from granularity_nb.study.plan import _data_digest
    a,b,c = (_data_digest(make(splits=dict(train=Split(x, [0, 1])))) for x in (images(2), images(2)+1, images(2)))
    assert a == c != b


# Smaller, longer-tailed, noisier

leaves = st.lists(st.integers(0, 3), min_size=1, max_size=80)
seeds = st.integers(0, 5)

def many(leaf): return make(splits=dict(train=Split(np.arange(len(leaf)*4, dtype=np.uint8).reshape(-1, 2, 2), np.array(leaf))))
def rows(s): return set(s.split('train').images.rows.tolist())

@given(leaves, seeds)
def test_every_beginning_is_stratified(leaf, seed):
    leaf = np.array(leaf)
    order = stratified_order(leaf, seed)
    assert sorted(order) == list(range(len(leaf))) and (order == stratified_order(leaf, seed)).all()
    size = np.bincount(leaf)
    for n in range(1, len(leaf)+1):
        got = np.bincount(leaf[order[:n]], minlength=len(size))
        low,high = ((got-1)/np.maximum(size, 1)).max(),((got+1)/np.maximum(size, 1))[size > 0].min()
        assert low <= high, 'no one share of all classes comes within an image of each' 

@given(leaves, seeds, st.data())
def test_subsamples_are_nested(leaf, seed, data):
    s = many(leaf)
    a,b = sorted((data.draw(st.integers(1, len(leaf))), data.draw(st.integers(1, len(leaf)))))
    small,large = s.subsample(a, seed),s.subsample(b, seed)
    assert len(small.split('train')) == a and rows(small) <= rows(large) and rows(small) == rows(s.subsample(a, seed))
    taken = sorted(rows(small))
    assert (small.split('train').leaf == np.array(leaf)[taken]).all() and (small.split('train').images[:] == s.split('train').images[taken]).all()

def test_subsamples_depend_on_the_seed(): assert len({tuple(rows(many([0]*40).subsample(5, seed))) for seed in range(10)}) > 5

@given(leaves, seeds, st.floats(1, 50), st.floats(1, 50))
def test_long_tails_are_nested_and_keep_every_class(leaf, seed, a, b):
    s,(a,b) = many(leaf),sorted((a, b))
    short,long = s.long_tail(a, seed),s.long_tail(b, seed)
    assert rows(long) <= rows(short) and set(long.split('train').leaf) == set(leaf)
    assert rows(long) == rows(s.long_tail(b, seed))

def test_long_tail_of_cui():
    h = Hierarchy.from_paths([f'{i:02}' for i in range(10)])
    s = Source('cui', h, dict(train=Split(np.zeros((5000,1,1), np.uint8), np.arange(5000) % 10)), h.level(0), dict(leaf=h.level(0)))
    n = np.sort(s.long_tail(100).counts('leaf'))[::-1]
    assert n.tolist() == [int(500*.01**(i/9)+1e-9) for i in range(10)] and n[0]/n[-1] == 100
    assert (s.long_tail(1).counts('leaf') == 500).all()
    assert len({tuple(s.long_tail(100, seed).counts('leaf')) for seed in range(5)}) > 1, 'which class is large is up to the seed'

@given(leaves, seeds, st.floats(0, 1), st.floats(0, 1), st.sampled_from([None,'species','breed']))
def test_label_noise(leaf, seed, a, b, within):
    group = pets.level(1).codes if within == 'species' else np.arange(4) if within == 'breed' else np.zeros(4, int)
    free = sum(any(group[o] == group[i] and o != i for o in set(leaf)) for i in leaf)
    s,(a,b) = many(leaf),sorted((a*free/len(leaf), b*free/len(leaf)))
    clean,some,more = np.array(leaf),*(s.label_noise(o, within, seed).split('train').leaf for o in (a, b))
    hit,hits = some != clean,more != clean
    assert not (hit & ~hits).any() and (some[hit] == more[hit]).all() and set(more) <= set(leaf)
    assert hit.sum() == round(a*len(leaf)) and (group[some] == group[clean]).all()
    if free < len(leaf):
        with pytest.raises(SourceError, match=f'only {free} of {len(leaf)} images'): s.label_noise(1., within, seed)
    assert (s.split('train').leaf == clean).all(), 'the source itself is as it was'

def test_label_noise_is_symmetric():
    s = many([0]*3000+[1]*3000+[2]*3000)
    noisy = s.label_noise(1.).split('train').leaf
    n = np.bincount(noisy[:3000], minlength=3)
    assert n[0] == 0 and abs(n[1]-1500) < 150

def test_steps_are_kept_and_taken_again(registry):
    register('many')(lambda n=60: many([i % 4 for i in range(n)]).but(name='many', args=dict(n=n)))
    made = Source.open('many', n=64).subsample(40, seed=1).long_tail(4, level='species').label_noise(.3, within='target', seed=2)
    again = Source.open('many', **made.args)
    assert made.args == again.args and rows(made) == rows(again) and (made.split('train').leaf == again.split('train').leaf).all()
    other = Source.open('many', n=64).subsample(40, seed=2)
    assert other.args != Source.open('many', n=64).subsample(40, seed=1).args

@pytest.mark.parametrize('call,says', [
    (lambda s: s.subsample(0), '1 … 5'), (lambda s: s.subsample(6), '1 … 5'), (lambda s: s.subsample(2.), 'whole number'), (lambda s: s.subsample(2, seed=-1), 'seed'),
    (lambda s: s.long_tail(.5), 'factor'), (lambda s: s.long_tail(float('nan')), 'factor'), (lambda s: s.label_noise(1.1), 'rate'), (lambda s: s.label_noise(.1, within='x'), "no level of 'pets' 'x'"),
    (lambda s: s.subsample(2, split='tset'), "no split")])
def test_steps_refuse(call, says):
    with pytest.raises(SourceError, match=says): call(make())

@pytest.mark.parametrize('steps,says', [([['sample', {}]], "did you mean 'subsample'"), ([['subsample', dict(m=3)]], "argument of step 'subsample' 'm'"), ([['subsample', {}]], "needs the argument 'n'"),
    (['subsample'], 'a step is a name and its arguments'), ([['but', {}]], "no step 'but'")])
def test_wrong_steps(registry, steps, says):
    register('pets')(make)
    with pytest.raises(SourceError, match=says): Source.open('pets', steps=steps)


# Looking

def test_counts_of_several_classes_a_leaf():
    h = Hierarchy.from_edges([('spork','spoon'), ('spork','fork'), ('ladle','spoon'), ('spoon','tool'), ('fork','tool')])
    m = h.level(1)
    s = Source('tools', h, dict(train=Split(images(3), h.codes(['spork','spork','ladle']))), h.level(9), dict(level=m))
    assert m.multi and dict(zip(m.vocab, s.counts('level'))) == dict(fork=2, spoon=3) and s.table().classes.tolist() == [2]

def test_leakage_finds_copies(tmp_path):
    from PIL import Image
    for k,o in enumerate(['a/1.png','a/2.png','b/3.png','t/4.png','t/5.png']):
        (tmp_path/o).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4,4), 20*k, np.uint8)).save(tmp_path/o)
    (tmp_path/'t'/'other name.png').write_bytes((tmp_path/'a'/'2.png').read_bytes())
    (tmp_path/'b'/'twin.png').write_bytes((tmp_path/'b'/'3.png').read_bytes())
    train,test = Files.find(tmp_path, ['a','b']),Files.find(tmp_path, 't')
    s = make(splits=dict(train=Split(train, [0, 0, 1, 1]), test=Split(test, [2, 2, 3])))
    found = s.leakage()
    assert found[['split','image','again_in','again','leaf','other_leaf']].values.tolist() == [['train','a/2.png','test','t/other name.png','beagle','tabby']]
    assert s.leakage(within=True).again.tolist() == ['b/twin.png','t/other name.png'] and len(s.leakage(['test'])) == 0
    x = np.random.RandomState(0).randint(0, 256, (6,4,4), dtype=np.uint8)
    arrays = make(splits=dict(train=Split(x[:4], [0]*4), test=Split(x[3:], [0]*3)))
    assert arrays.leakage()[['image','again']].values.tolist() == [['3','0']]

def test_datasets_of_tensors_and_pictures():
    torch = pytest.importorskip('torch')
    labels = LabelMap(['tabby','poodle'], pets.leaves, pets.codes(['tabby','poodle']))
    x = np.random.RandomState(0).randint(0, 256, (4,5,6,3), dtype=np.uint8)
    s = Split.from_dataset(torch.utils.data.TensorDataset(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor([0, 1, 1, 0])), labels)
    np.testing.assert_array_equal(s.images, x)
    assert [pets.leaves[o] for o in s.leaf] == ['tabby','poodle','poodle','tabby']
    with pytest.raises(SourceError, match='is float32, not uint8'): Split.from_dataset([(torch.zeros(3,4,4), 0)], labels).images
    with pytest.raises(SourceError, match='makes them equal'): Split.from_dataset([(x[0], 0), (x[0,1:], 1)], labels).images
    assert pets.leaves[Split.from_dataset([(x[0], 'tabby')], labels).leaf[0]] == 'tabby', 'a label may be a name'
    with pytest.raises(SourceError, match="image 0 .* label 'cat', which is none of the 2 class names: 'tabby', 'poodle'"): Split.from_dataset([(x[0], 'cat')], labels)

def test_datasets_that_raise_or_mix_kinds():
    from PIL import Image
    labels = LabelMap(['tabby','poodle'], pets.leaves, pets.codes(['tabby','poodle']))
    class Own:
        targets,samples = [0, 1],[('a.png', 0), ('b.png', 1)]
        def __init__(self, get): self.get = get
        def __len__(self): return 2
        def __getitem__(self, i): return self.get(i), i
    grey,colour = Image.new('L', (4,4), 9),Image.new('RGB', (4,4), (1,2,3))
    assert Split.from_dataset(Own([grey, colour].__getitem__), labels).images[:,0,0].tolist() == [[9,9,9],[1,2,3]]
    def fails(i): raise OSError('broken PNG file')
    with pytest.raises(SourceError, match='image 0 of the dataset, a.png, cannot be read .OSError: broken PNG file'): Split.from_dataset(Own(fails), labels).images
    with pytest.raises(SourceError, match='image 1 of the dataset, a.png, cannot be read'): Split.from_dataset(pytest.importorskip('torch').utils.data.Subset(Own(lambda i: fails(i) if i == 0 else grey), [1, 0]), labels).images
    deep = Image.fromarray(np.full((4,4), -1., np.float32))
    with pytest.raises(SourceError, match='image 0 of the dataset cannot be used .unsupported'): Split.from_dataset(Own([deep, colour].__getitem__), labels).images

def test_pictures_are_drawn():
    plt = pytest.importorskip('matplotlib.pyplot')
    s = make()
    assert len(s.plot_counts().lines) == 2
    assert [o.texts[0].get_text() for o in s.show_level('species', cols=2).axes if o.texts] == ['cat','dog']
    assert [o.texts[0].get_text() for o in s.show_levels('tabby', cols=2).axes if o.texts] == ['breed: tabby','species: cat']
    plt.close('all')

def test_names_of_a_source_are_pythons_own_strings():
    s = make()
    odd = Source(np.str_('pets'), s.hierarchy, {np.str_(k): o for k,o in s.splits.items()}, s.target, {np.str_(k): m for k,m in s.levels.items()})
    assert all(type(o) is str for o in (odd.name, *odd.splits, *odd.levels)) and 'np.str_' not in repr(odd)
    with pytest.raises(SourceError, match='name of a split .*text, not 1'): Source('pets', s.hierarchy, {1: s.split('train')}, s.target)
    with pytest.raises(SourceError, match='name of a level .*text, not None'): Source('pets', s.hierarchy, s.splits, s.target, {None: s.target})

def test_what_a_step_is_asked_for_is_done_or_said():
    s = many([0]*30+[1]*30+[3]*30) # beagles, Persians, tabbies: a beagle has no other dog here to be taken for
    clean = s.split('train').leaf
    for within,most in [('species', 60/90), (None, 1.)]:
        noisy = s.label_noise(.3, within=within)
        assert (noisy.split('train').leaf != clean).mean() == pytest.approx(.3) and noisy.args['steps'][0][1]['rate'] == .3
        assert (s.label_noise(most, within=within).split('train').leaf != clean).mean() == pytest.approx(most)
    with pytest.raises(SourceError, match=r"only 60 of 90 images of 'train' have another leaf to go to within their class of 'species': a rate of 0.9 needs 81; the largest possible is 0.667"): s.label_noise(.9, within='species')
    with pytest.warns(SourceWarning, match='largest class has 30 images and the smallest 1, 30 times as many instead of 100'): s.long_tail(100)
    with pytest.warns(SourceWarning, match='of 3 classes, 2 cannot fill the curve'): many([0]*30+[1]*2+[3]*2).long_tail(4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s.long_tail(10)

def test_noise_that_reaches_no_image_is_said():
    s = many([0]*10+[1]*10)
    with pytest.warns(SourceWarning, match='0.01 is not even one of 20 images'): assert (s.label_noise(.01).split('train').leaf == s.split('train').leaf).all()


def test_a_target_that_is_no_level_becomes_one(registry):
    @register('pets')
    def make_pets(): return make()
    own = dict(poodle='big', beagle='small', tabby='small', persian='big')
    for target in (own, LabelMap(pets.leaves, ['big','small'], [['big','small'].index(own[o]) for o in pets.leaves])):
        s = Source.open('pets', target=target)
        assert [*s.levels] == ['breed','species','target'] and s.level('target') is s.target and s.counts('target').tolist() == [2, 3]
        assert s.but(target=pets.level(1)).levels == make().levels and [*s.but(target=pets.level(0)).levels] == ['breed','species']
        assert s.subsample(3).level('target') is s.target
    same = Source.open('pets', target=dict(poodle='D', beagle='D', tabby='C', persian='C'))
    assert [*same.levels] == ['breed','species'] and same.level('target').vocab == ('C','D'), 'a level by another name'
    assert [*make(target=pets.level(0), levels=dict(species=pets.level(1))).levels] == ['target','species'], 'before what is coarser'
    with pytest.raises(SourceError, match="'pets' has a level 'target', which is not its target"): make(target=pets.level(0), levels=dict(target=pets.level(1)))

def test_the_name_of_a_level_is_a_label_map():
    s = make()
    assert s.level('target') is s.target and s.level(s.target) is s.target
    assert s.target_for('breed') is s.target and s.target_for('breed', 'breed') == s.level('breed')


@pytest.mark.parametrize('n', [0, 3, 12_001])
def test_many_files_are_asked_for_their_sizes_at_once(n, tmp_path, monkeypatch):
    "By other threads than the caller's, and the digest is that of sizes and names in their order; few files are asked one by one."
    import hashlib, threading
    from granularity_nb.data import source as module
    asked = set()
    def size(path):
        asked.add(threading.get_ident())
        return 7*int(os.path.basename(path)[:5])
    monkeypatch.setattr(module, '_bytes', size)
    names = [f'{i:05}.png' for i in range(n)]
    files = Files(tmp_path, ['a','b'], np.arange(n)%2, names)
    assert files.digest == hashlib.sha256(b''.join(b'%c/%s\0%d\n' % (b'ab'[i%2], o.encode(), 7*i) for i,o in enumerate(names))).hexdigest()[:16]
    assert (threading.get_ident() in asked) == (n == 3) and files.size.tolist() == [7*i for i in range(n)]

def paths_of(kind, paths):
    if kind == 'fastcore': return __import__('fastcore.foundation').foundation.L(paths)
    return {'list': list, 'texts of numpy': lambda o: np.array([str(p) for p in o]), 'objects': lambda o: np.array(o, dtype=object), 'pandas': __import__('pandas').Series}[kind](paths)

@pytest.mark.parametrize('kind', ['list','texts of numpy','objects','pandas','fastcore'])
def test_paths_come_in_any_sequence(kind, tmp_path):
    from PIL import Image
    paths = [tmp_path/f'{i}.png' for i in range(2)]
    for i,o in enumerate(paths): Image.fromarray(np.full((4,4,3), 9*i, np.uint8)).save(o)
    split = Split(paths_of(kind, paths), [0, 1])
    assert split.files.relative() == ['0.png','1.png'] and split.image(1)[0,0].tolist() == [9,9,9]

def test_what_is_no_pixels_is_named_with_its_remedy(tmp_path):
    from PIL import Image
    import io, tarfile
    from granularity_nb.data.stream import TarFiles
    Image.new('RGB', (4,4)).save(tmp_path/'a.png')
    with tarfile.open(tmp_path/'a.tar', 'w') as t: t.add(tmp_path/'a.png', 'a.png')
    with pytest.raises(SourceError, match=r'^TarFiles has files to read, not pixels: wrap it in FileImages'): Split(TarFiles.find(tmp_path), [0])
    for o in (str(tmp_path/'a.png'), np.array([['a.png']]), [b'a.png']):
        with pytest.raises(SourceError, match='or a flat list of paths, not'): Split(o, [0])

def test_channels():
    assert [Split(np.zeros((2,3,3,*o), np.uint8), [0,0]).channels for o in ((), (1,), (3,))] == [1, 1, 3]

def test_is_made(tmp_path):
    from PIL import Image
    Image.new('RGB', (4,4)).save(tmp_path/'a.png')
    later = Split(lambda: np.zeros((1,2,2), np.uint8), [0])
    before = later.is_made
    later.images
    assert (before, later.is_made, Split(np.zeros((1,2,2), np.uint8), [0]).is_made, Split([tmp_path/'a.png'], [0]).is_made) == (False, True, True, False)
