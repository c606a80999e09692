"Random controls: the sizes stay, the meaning goes, borders hold, draws repeat; k-means and dendrograms against scipy and clusters that are there."
import os, subprocess, sys
from collections import Counter
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from granularity_nb.labels.controls import _stuck, clusters, dendrogram, extract, kmeans, prototypes, random_groups, random_splits
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, LabelMap

def nested(seed, n=60):
    "Four maps over the same leaves, each refining the next: leaf, unit, group, superclass."
    rng = np.random.default_rng(seed)
    unit = np.r_[np.arange(20), rng.integers(0, 20, n-20)]
    group = np.r_[np.arange(6), rng.integers(0, 6, 14)]
    over = np.array([0,1,2,0,1,0])
    leaves = [f'{i:02d}' for i in range(n)]
    return (LabelMap.identity(leaves), LabelMap(leaves, [f'u{i:02d}' for i in range(20)], unit),
            LabelMap(leaves, [f'g{i}' for i in range(6)], group[unit]), LabelMap(leaves, list('abc'), over[group][unit]))

def sizes(m, of):
    "How many units of `of` each class of `m` holds, by class."
    return [len(set(of.codes[m.codes==c])) for c in range(m.n_classes)]

@given(st.integers(0, 999), st.integers(0, 999))
def test_random_groups_keep_sizes_units_and_borders(data, seed):
    leaf,unit,group,over = nested(data)
    for of in leaf,unit:
        free,inside = random_groups(group, of=of, seed=seed),random_groups(group, within=over, of=of, seed=seed)
        for m in free,inside:
            assert m.leaves==group.leaves and m.n_classes==group.n_classes and of.refines(m)
            assert sizes(m, of)==sizes(group, of)
            assert m==random_groups(group, within=over if m is inside else None, of=of, seed=seed)
        assert inside.refines(over)
        for c in range(over.n_classes): # class by class, each border holds groups of the sizes of the real ones there
            there = over.codes==c
            assert {o:len(set(of.codes[there&(inside.codes==o)])) for o in set(inside.codes[there])}=={
                    o:len(set(of.codes[there&(group.codes==o)])) for o in set(group.codes[there])}

def test_what_no_draw_can_change_is_known():
    leaf,unit,group,over = nested(0)
    one = LabelMap(leaf.leaves, ['all'], [0]*60)
    for like,within,of in ((leaf, None, None), (leaf, over, None), (unit, None, unit), (over, over, None), (one, None, None)):
        assert _stuck(like, within, of) and all(random_groups(like, within, of, seed).refines(like) for seed in range(9))
    for like,within,of in ((unit, None, None), (group, over, unit), (over, None, unit)):
        assert not _stuck(like, within, of) and not all(random_groups(like, within, of, seed).refines(like) for seed in range(9))

def test_random_groups_are_random():
    leaf,unit,group,over = nested(0)
    draws = [random_groups(group, within=over, seed=s) for s in range(200)]
    assert len({m.digest for m in draws})>190 and not any(m.refines(group) for m in draws)
    a,b = np.flatnonzero(over.codes==0)[:2]
    share = np.mean([m.codes[a]==m.codes[b] for m in draws])
    n = Counter(group.codes[over.codes==0])
    total = sum(n.values())
    expected = sum(k*(k-1) for k in n.values())/(total*(total-1))
    assert abs(share-expected)<4*(expected*(1-expected)/len(draws))**.5 # four standard errors, the seeds are fixed

@given(st.integers(0, 999), st.integers(3, 60))
def test_random_splits_are_nearly_equal_and_refine(seed, n):
    *_,over = nested(seed)
    m = random_splits(over, n, seed=seed)
    assert m.n_classes==n and m.refines(over) and m==random_splits(over, n, seed=seed)
    size = np.bincount(m.codes, minlength=n)
    parent = m.parents_in(over)
    assert size.min()>=1
    for c in range(over.n_classes): assert np.ptp(size[parent==c])<=1
    parts,whole = np.bincount(parent, minlength=over.n_classes),np.bincount(over.codes)
    for i in range(over.n_classes): # no part could be moved to a superclass whose parts are larger
        for j in range(over.n_classes):
            if parts[j]>1: assert whole[i]/parts[i]<=whole[j]/(parts[j]-1)+1e-9

def test_one_class_per_image_and_one_per_superclass():
    *_,over = nested(1)
    every = random_splits(over, 60)
    assert sorted(every.codes)==list(range(60)) and len(set(every.vocab))==60
    assert random_splits(over, 3).codes.tolist()==over.codes.tolist()

def test_superclasses_without_images_get_no_part():
    items = LabelMap(['1','2','3'], ['cat','dog','bird'], [0,2,2])
    m = random_splits(items, 3)
    assert m.vocab==('cat / part 0','bird / part 0','bird / part 1')

def test_what_cannot_be_drawn_is_refused():
    leaf,unit,group,over = nested(0)
    multi = LabelMap(leaf.leaves, ['x','y'], (np.arange(0, 121, 2), np.tile([0,1], 60)))
    for f,message in ((lambda: random_groups(over, within=group), 'does not refine'), (lambda: random_groups(unit, of=group), 'does not refine'),
                      (lambda: random_groups(multi), 'multi'), (lambda: random_splits(multi, 4), 'several classes'),
                      (lambda: random_splits(over, 2), '2 classes are fewer than the 3'), (lambda: random_splits(over, 61), '61 classes are more than the 60 images')):
        with pytest.raises(HierarchyError, match=message): f()

# ------------------------------------------------------------------ what both kinds of control share
few = settings(max_examples=25)

@pytest.fixture
def tree(): return Hierarchy.from_paths([f'r/{i%2}/{i%6}/{i}' for i in range(48)])

def class_sizes(m): return sorted(np.bincount(m.codes, minlength=m.n_classes).tolist())
def same_groups(a, b): return len(set(zip(a, b)))==len(set(a))==len(set(b))

def test_random_maps_of_a_seed_never_change(tree):
    "Stored studies rest on them: whoever changes a draw makes their results unrepeatable."
    kind,top = tree.level(1),tree.level(2)
    made = random_groups(kind, seed=3),random_groups(kind, within=top, seed=3),random_groups(top, of=kind, seed=1),random_splits(top, 9, seed=4)
    assert [m.digest[:16] for m in made]==['264d8d4eaf474f12', 'a44bf8c33d2c26a9', '2cabfbf02fc4959d', '75d58420ec789643']

@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
@few
def test_splits_and_clusters_share_out_alike(codes, data):
    used = sorted(set(codes))
    items = LabelMap([f'i{i:02d}' for i in range(len(codes))], 'abcd', codes)
    n = data.draw(st.integers(len(used), len(codes)))
    x = np.random.default_rng(0).normal(size=(len(codes), 3))
    parts,near = random_splits(items, n),kmeans(x, items, n, within=items)
    for m in parts,near: assert m.n_classes==n and min(class_sizes(m))>=1 and m.refines(items)
    assert [o.split(' / ')[0] for o in parts.vocab]==[o.split(' / ')[0] for o in near.vocab]
    for c in used:
        inside = np.bincount(parts.codes[items.codes==c])
        assert np.ptp(inside[inside>0])<=1

# ------------------------------------------------------------------ k-means
@pytest.fixture(scope='module')
def blobs():
    "60 images around 6 far-apart centres, three of each superclass; their features, and which centre."
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(6), 10)
    ids = [f'img{i:02d}' for i in range(60)]
    return rng.normal(size=(60, 4))*.1+10*rng.normal(size=(6, 4))[of], ids, of, LabelMap(ids, ['even','odd'], of%2, name='parity')

def test_it_finds_clusters_that_are_there(blobs):
    x,ids,of,parity = blobs
    assert same_groups(kmeans(x, ids, 6, n_init=5).codes, of) and same_groups(kmeans(x, ids, 6, parity, n_init=5).codes, of)
    assert same_groups(kmeans(x, ids, 6, parity, n_init=5, large=5).codes, of), 'in batches'
    m = kmeans(x*np.linspace(.1, 9, 60)[:,None], ids, 6, unit=True, n_init=5)
    assert same_groups(m.codes, of), 'length does not matter if unit'

def test_features_from_anything(blobs):
    torch = pytest.importorskip('torch')
    x,ids,_,parity = blobs
    a = kmeans(x, ids, 7, parity, seed=2)
    assert a==kmeans(lambda: x, parity, 7, parity, seed=2)==kmeans(torch.tensor(x, requires_grad=True), ids, 7, parity, seed=2)
    assert a!=kmeans(x, ids, 7, parity, seed=3) and a.name=='7 clusters' and kmeans(x, ids, 7, name='k').name=='k'

def test_ends_of_the_scale_and_images_given_twice(blobs):
    x,ids,_,parity = blobs
    assert class_sizes(kmeans(x, ids, 60))==[1]*60 and class_sizes(kmeans(x, ids, 60, parity))==[1]*60 and class_sizes(kmeans(x, ids, 1))==[60]
    assert kmeans(x, ids, 2, parity).codes.tolist()==parity.codes.tolist()
    for large in 100,1:
        m = kmeans(np.ones((60, 2)), ids, 13, parity, large=large)
        assert m.n_classes==13 and min(class_sizes(m))>=1 and m.refines(parity)

def test_threads_and_hash_seeds_do_not_matter():
    code = ("import numpy as np; from granularity_nb.labels.controls import kmeans; from granularity_nb.labels.hierarchy import LabelMap\n"
            "x = np.random.default_rng(0).normal(size=(900, 24)); ids = [f'{i:03d}' for i in range(900)]\n"
            "made = [kmeans(x, ids, 31, LabelMap(ids, 'ab', np.arange(900)%2), large=l).digest for l in (10_000, 100)]\n")
    out = subprocess.run([sys.executable, '-c', code+'print(*made)'], env=dict(os.environ, OMP_NUM_THREADS='2', OPENBLAS_NUM_THREADS='2', PYTHONHASHSEED='2'),
                         capture_output=True, text=True, check=True).stdout.split()
    here = {}
    exec(code, here)
    assert out==here['made'] and len(set(out))==2

@pytest.mark.parametrize('change,said', [(dict(n=1), 'fewer than the 2'), (dict(n=61), 'more than the 60'), (dict(features=np.ones((59, 2))), '60 rows'),
    (dict(features=np.ones(60)), 'one vector each'), (dict(features=np.full((60, 2), np.inf)), 'row 0 is not finite'),
    (dict(features=np.eye(60)[:,:59], unit=True), 'row 59 is all zeros'), (dict(items=['a','b'], features=np.ones((2, 2))), 'not over the 2 images')])
def test_kmeans_refuses(blobs, change, said):
    x,ids,_,parity = blobs
    with pytest.raises(HierarchyError, match=said): kmeans(**dict(features=x, items=ids, n=5, within=parity)|change)

# ------------------------------------------------------------------ features
def test_extract_is_the_same_in_any_batches():
    images = np.arange(7*4*4, dtype=np.uint8).reshape(7, 4, 4)
    want = images.reshape(7, -1).astype(np.float32)/255
    for bs in 1,3,7,100: assert np.array_equal(extract(lambda b: b.reshape(len(b), -1)/255, images, bs), want.astype(np.float32))
    assert np.array_equal(extract(lambda b: b, iter([want[:2], want[2:]])), want)
    assert extract(lambda b: [[len(o)] for o in b], ['one', 'three'], 1).tolist()==[[3],[5]]
    with pytest.raises(HierarchyError, match='no images'): extract(len, [])

def test_extract_runs_networks_without_gradients():
    torch = pytest.importorskip('torch')
    net,asked = torch.nn.Linear(3, 2).to(torch.bfloat16),[]
    def embed(b):
        asked.append(torch.is_grad_enabled())
        return net(torch.as_tensor(b).to(torch.bfloat16))
    out = extract(embed, np.ones((5, 3), np.float32), 2)
    assert out.shape==(5, 2) and out.dtype==np.float32 and asked==[False]*3 and extract(embed, torch.ones(5, 3)).shape==(5, 2)

@given(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=3, max_size=12))
@few
def test_prototypes_are_means(rows):
    rows = [set(range(3))]+rows
    m = LabelMap([f'i{i}' for i in range(len(rows))], 'abc', (np.cumsum([0]+[len(r) for r in rows]), np.concatenate([sorted(r) for r in rows])))
    x = np.random.default_rng(0).normal(size=(len(rows), 4))
    want = [np.mean([v for v,r in zip(x, rows) if c in r], axis=0) for c in range(3)]
    assert np.allclose(prototypes(x, m), want, atol=1e-6)

def test_a_class_without_images_has_no_prototype():
    with pytest.raises(HierarchyError, match="'b'"): prototypes(np.ones((2, 2)), LabelMap(['i','j'], 'abc', [0,2]))

# ------------------------------------------------------------------ dendrograms
@given(st.integers(2, 14), st.sampled_from(['ward','average','complete','single']), st.integers(0, 9))
@few
def test_clusters_are_scipys(n, method, seed):
    from scipy.cluster.hierarchy import cut_tree, linkage
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    names = [f'c{i:02d}' for i in range(n)]
    h = dendrogram(x, names, method)
    assert h.leaves==tuple(names) and len(h)==2*n-1 and h.is_tree and all(len(h.children(o)) in (0,2) for o in h.names)
    link,before = linkage(x.astype(float), method),None
    for k in range(1, n+1):
        m = clusters(h, k)
        assert m.n_classes==k==h.cut(k).n_classes and same_groups(m.codes, cut_tree(link, k).ravel())
        assert before is None or m.refines(before)
        before = m
    rnd = np.random.default_rng(seed).permutation(n)
    assert dendrogram(x[rnd], [names[i] for i in rnd], method)==h, 'the order of the classes does not matter'

@pytest.mark.parametrize('kw,said', [(dict(method='median'), "'median'"), (dict(metric='cosine'), "'ward' needs"), (dict(names='ab'), '2 rows'),
    (dict(names=['a','a','b']), 'given twice'), (dict(names=['a','b','merge 1']), 'merge'), (dict(features=np.ones((1,2)), names='a'), 'two classes')])
def test_dendrogram_refuses(kw, said):
    with pytest.raises(HierarchyError, match=said): dendrogram(**dict(features=np.eye(3), names='abc')|kw)

def test_clusters_refuse_what_is_no_dendrogram(tree):
    with pytest.raises(HierarchyError, match='not a dendrogram'): clusters(tree, 3)
    h = dendrogram(np.eye(3), 'abc')
    for n in 0,4:
        with pytest.raises(HierarchyError, match='1…3'): clusters(h, n)

# ------------------------------------------------------------------ features of a network
def test_with_a_backbone_trained_here(tmp_path):
    "Features learnt from superclasses alone tell their leaves apart better than chance does."
    pytest.importorskip('fastai')
    from granularity_nb.data.block import dataloaders
    from granularity_nb.data.source import Source, Split
    from granularity_nb.labels.alignment import alignment
    from granularity_nb.training.backbone import load_checkpoint
    from granularity_nb.training.pretrain import pretrain
    from granularity_nb.training.recipe import Recipe
    h,rng = Hierarchy.from_paths(['bar/vertical/left', 'bar/vertical/right', 'bar/horizontal/top', 'bar/horizontal/bottom']),np.random.default_rng(0)
    place = dict(left=np.s_[:,2:5], right=np.s_[:,11:14], top=np.s_[2:5], bottom=np.s_[11:14])
    leaf,images = rng.integers(0, 4, 256),rng.integers(0, 90, (256, 16, 16))
    for x,k in zip(images, leaf): x[place[h.leaves[k]]] += 150
    source = Source('bars', h, dict(train=Split(images.astype(np.uint8), leaf)), h.level(1))
    folder = pretrain(source, source.target, tmp_path/'run', Recipe(epochs=2, bs=32, lr=.05), progress=False)
    backbone = load_checkpoint(folder).model.backbone.eval()
    x = extract(lambda b: backbone(b[0]), dataloaders(source, source.target, valid='train', device='cpu').valid)
    leaves = source.leaf_map('train')
    within = source.target.after(leaves)
    near,chance = (alignment(m, leaves).nmi for m in (kmeans(x, within, 8, within),random_splits(within, 8)))
    assert near>chance+.2, (near, chance)

@pytest.mark.parametrize('n', [2.5, '3', None, float('inf')])
def test_numbers_of_classes_are_whole(n):
    items = LabelMap([f'{i}' for i in range(9)], ['x','y'], [0]*5+[1]*4)
    x = np.random.default_rng(0).normal(size=(9, 3))
    tree = dendrogram(x, items.leaves)
    for f in (lambda: random_splits(items, n)),(lambda: kmeans(x, items, n)),(lambda: clusters(tree, n)):
        with pytest.raises(HierarchyError, match='whole number'): f()

@pytest.mark.parametrize('seed', [-1, None, 1.5, 'a'])
def test_seeds_are_whole_numbers(seed):
    _,_,group,_ = nested(0)
    for f in (lambda: random_groups(group, seed=seed)),(lambda: random_splits(group, 9, seed=seed)),(lambda: kmeans(np.zeros((60, 2)), group, 9, seed=seed)):
        with pytest.raises(HierarchyError, match='seed must be a whole number'): f()

def test_features_that_are_none():
    names = list('abcde')
    for x,message in (np.ones((5,3))+1j, 'complex'),(np.ones((5,0)), r'shape \(5, 0\)'),(np.full((5,2), 1e300), 'not finite'):
        with pytest.raises(HierarchyError, match=message): kmeans(x, names, 2)
    for embed,message in (lambda b: np.ones((1,3)), 'one vector for each'),(lambda b: np.ones(len(b)), r'shape \(5,\)'):
        with pytest.raises(HierarchyError, match=message): extract(embed, np.ones((5,2)))
    with pytest.raises(HierarchyError, match='batch size'): extract(lambda b: b, np.ones((5,2)), bs=0)

def test_dendrograms_that_cannot_be():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(HierarchyError, match='row of zeros has no direction'): dendrogram(np.zeros((5,3)), list('abcde'), 'average', 'cosine')
    with pytest.raises(HierarchyError, match="metric='foo'"): dendrogram(x, list('abcde'), 'average', 'foo')
    with pytest.raises(HierarchyError, match='class 0 is 1, not a string'): dendrogram(x, [1,'a','b','c','d'])
