"Hierarchy and LabelMap: contracts, properties against slow references that follow every path one by one, and faults."
import copy, json, os, pickle, subprocess, sys, warnings
import numpy as np, pytest
from hypothesis import given, strategies as st
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, HierarchyWarning, LabelMap
from granularity_nb.labels.reading import read_table

PETS = [('poodle','dog'), ('beagle','dog'), ('tabby','cat'), ('persian','cat'), ('dog','animal'), ('cat','animal'), ('dog','pet'), ('pet','animal')]
ONE_PATH = 'first','longest','shortest'

@pytest.fixture
def pets(): return Hierarchy.from_edges(PETS)

@st.composite
def dags(draw, tree=False, one_root=False):
    "A random DAG of up to 12 nodes, some of whose inner nodes are labels too: (edges, labels)."
    n = draw(st.integers(2, 12))
    names = draw(st.permutations([f'n{i:02d}' for i in range(n)]))
    edges = []
    for i in range(1, n):
        some = draw(st.sets(st.integers(0, i-1), min_size=int(one_root), max_size=1 if tree else 3))
        edges += [(names[i],names[j]) for j in sorted(some)]
    if not edges: edges = [(names[1],names[0])]
    parents = {p for _,p in edges}
    nodes = sorted({o for e in edges for o in e})
    inner = draw(st.sets(st.sampled_from(sorted(parents)), max_size=3))
    return edges, sorted(set(nodes)-parents|inner)

def build(dag): return Hierarchy.from_edges(dag[0], labels=dag[1])

def up_paths(h, node):
    "All ways from a node to a root, as lists that start with the node."
    up = h.parents(node)
    return [[node]+o for p in up for o in up_paths(h, p)] if up else [[node]]

def as_set(x): return {x} if isinstance(x, str) else set(x)

def height(h, node): return max((1+height(h, o) for o in h.children(node)), default=0)

# ------------------------------------------------------------------ cuts, against all paths one by one
@given(dags(), st.integers(0, 6))
def test_level_is_the_kth_ancestor_on_every_path(dag, k):
    h = build(dag)
    m = h.level(k)
    assert m.leaves==h.leaves==tuple(sorted(dag[1]))
    for o in h.leaves: assert as_set(m[o])=={p[min(k, len(p)-1)] for p in up_paths(h, o)}

@given(dags(), st.integers(0, 6))
def test_depth_is_the_node_at_that_distance_from_the_root_on_every_path(dag, d):
    h = build(dag)
    m = h.depth(d)
    for o in h.leaves: assert as_set(m[o])=={p[::-1][min(d, len(p)-1)] for p in up_paths(h, o)}

@given(dags(), st.data())
def test_at_is_the_first_chosen_node_on_every_path(dag, data):
    h = build(dag)
    nodes = data.draw(st.sets(st.sampled_from(h.names), min_size=1))
    m = h.at(nodes, rest='none of them')
    for o in h.leaves:
        first = {next((x for x in p if x in nodes), None) for p in up_paths(h, o)}-{None}
        assert as_set(m[o])==(first or {'none of them'})
    for policy in ONE_PATH:
        one = h.at(nodes, policy, rest='none of them')
        assert not one.multi and all(one[o] in as_set(m[o]) for o in h.leaves)
    missed = [o for o in h.leaves if as_set(m[o])=={'none of them'}]
    if missed:
        with pytest.raises(HierarchyError, match=missed[0]): h.at(nodes)
    else: assert h.at(nodes)==m

@given(dags(), st.integers(0, 6), st.sampled_from(ONE_PATH))
def test_one_path_policies(dag, k, policy):
    h = build(dag)
    level,depth = h.level(k, policy),h.depth(k, policy)
    assert not level.multi and not depth.multi
    for o in h.leaves:
        paths = up_paths(h, o)
        if policy=='first': path = paths[0] # parents are sorted, so the first path goes by the first parent throughout
        else: path = min(paths, key=lambda p: (len(p)*(1 if policy=='shortest' else -1), p))
        assert level[o]==path[min(k, len(path)-1)]
        assert depth[o]==path[::-1][min(k, len(path)-1)]

@given(dags(), st.integers(0, 6))
def test_policy_error_is_raised_where_paths_part_and_only_there(dag, k):
    h = build(dag)
    for cut in h.level,h.depth:
        m = cut(k)
        if m.multi:
            culprit = next(o for o in h.leaves if len(m[o])>1)
            with pytest.raises(HierarchyError, match=f"{culprit}'.*paths='all'"): cut(k, paths='error')
        else: assert cut(k, paths='error')==m

@given(dags(tree=True), st.integers(0, 5))
def test_in_a_tree_levels_get_coarser_and_depths_finer(dag, k):
    h = build(dag)
    assert h.level(k).refines(h.level(k+1)) and h.level(k).n_classes>=h.level(k+1).n_classes
    assert h.depth(k+1).refines(h.depth(k))
    assert h.depth(h.height)==h.level(0) and h.level(h.height)==h.depth(0)

@given(dags(), st.sampled_from(ONE_PATH))
def test_cuts_are_nested_partitions_from_roots_to_leaves(dag, policy):
    h = build(dag)
    cuts = [h.cut(n, policy) for n in range(1, h.n_leaves+2)]
    assert cuts[0].n_classes==len({h.level(99, policy)[o] for o in h.leaves})
    assert cuts[-1].codes.tolist()==list(range(h.n_leaves)) and cuts[-1].vocab==h.leaves
    for a,b in zip(cuts, cuts[1:]): assert b.refines(a) and b.n_classes>=a.n_classes
    for m in cuts:
        for o in h.leaves: assert any(m[o] in p for p in up_paths(h, o))
    reach = {m.n_classes for m in cuts}
    for n,m in enumerate(cuts, 1): assert abs(m.n_classes-n)==min(abs(r-n) for r in reach)

def test_cut_splits_the_largest_class_first():
    h = Hierarchy.from_paths(['x/a/1','x/a/2','x/a/3','x/b/4','x/b/5'])
    assert [h.cut(n).vocab for n in (1,2,4,5)]==[('x',), ('a','b'), ('1','2','3','b'), ('1','2','3','4','5')]

# ------------------------------------------------------------------ input order, restriction, round trips
@given(dags(), st.randoms(use_true_random=False))
def test_results_do_not_depend_on_input_order(dag, rnd):
    h = build(dag)
    edges,labels = list(dag[0]),list(dag[1])
    rnd.shuffle(edges); rnd.shuffle(labels)
    g = Hierarchy.from_edges(edges, labels=labels)
    assert g==h and g.digest==h.digest and hash(g)==hash(h)
    for a,b in (h.level(1),g.level(1)),(h.depth(2),g.depth(2)),(h.cut(3),g.cut(3)): assert a==b and a.digest==b.digest

@given(dags(), st.data())
def test_relabelling_commutes_with_restriction(dag, data):
    h = build(dag)
    some = data.draw(st.sets(st.sampled_from(h.leaves), min_size=1))
    g = h.restrict(some)
    assert g.leaves==tuple(sorted(some)) and set(g.names)=={x for o in some for p in up_paths(h, o) for x in p}
    for k in range(4):
        for policy in ('all',)+ONE_PATH:
            assert g.level(k, policy)==h.level(k, policy).restrict(some)
            assert g.depth(k, policy)==h.depth(k, policy).restrict(some)

@given(dags())
def test_round_trips(dag):
    h = build(dag)
    for o in Hierarchy.from_dict(json.loads(h.to_json())), pickle.loads(pickle.dumps(h)), copy.deepcopy(h): assert o==h and o.digest==h.digest
    for m in h.level(0),h.level(2):
        for o in LabelMap.from_dict(json.loads(json.dumps(m.to_dict()))), pickle.loads(pickle.dumps(m)):
            assert o==m and o.digest==m.digest and o.name==m.name

@given(dags())
def test_navigation(dag):
    h = build(dag)
    for o in h.names:
        assert set(h.ancestors(o))=={x for p in up_paths(h, o) for x in p}-{o}
        assert all(o in h.children(p) for p in h.parents(o)) and all(o in h.parents(c) for c in h.children(o))
        assert set(h.leaves_of(o))=={x for x in h.leaves if x==o or o in h.ancestors(x)}
        lengths = [len(p)-1 for p in up_paths(h, o)]
        assert (h.depth_of(o), h.depth_of(o, longest=True))==(min(lengths), max(lengths))
        if h.leaves_of(o):
            sub = h.subtree(o)
            assert sub.roots==(o,) and sub.leaves==h.leaves_of(o)
    assert h.roots==tuple(o for o in h.names if not h.parents(o)) and set(h.inner_leaves)=={o for o in h.leaves if h.children(o)}
    assert {c for c,_ in dag[0]}>=set(h.names)-set(h.roots)

@given(dags(one_root=True))
def test_lca_distance(dag):
    h = build(dag)
    path,high = h.lca_distance(),h.lca_distance(measure='height')
    assert path.dtype==high.dtype==np.int8
    def way(o): # shortest way up to each ancestor
        d = {}
        for p in up_paths(h, o):
            for i,x in enumerate(p): d[x] = min(i, d.get(x, 99))
        return d
    ways,heights = {o:way(o) for o in h.leaves},{o:height(h, o) for o in h.names}
    for i,a in enumerate(h.leaves):
        for j,b in enumerate(h.leaves):
            both = set(ways[a])&set(ways[b])
            assert path[i,j]==(0 if a==b else min(ways[a][x]+ways[b][x] for x in both))
            assert high[i,j]==(0 if a==b else min(heights[x] for x in both))
    c = h.lca(a, h.leaves[0])
    assert ways[a][c]+ways[h.leaves[0]][c]==h.lca_distance(a, h.leaves[0])==path[i,0] and h.lca_distance(a, h.leaves[0], measure='height')==high[i,0]
    i,j = np.indices(path.shape)
    assert (h.lca_distance(i, j)==path).all() and (path==path.T).all() and (high==high.T).all()

def test_lca_distance_needs_int16_in_a_deep_chain():
    chain = Hierarchy.from_edges([(f'{i:03d}', f'{i+1:03d}') for i in range(150)]+[('leaf','150')])
    d = chain.lca_distance()
    assert d.dtype==np.int16 and chain.lca_distance('000','leaf')==d[0,1]==151

# ------------------------------------------------------------------ LabelMap
@st.composite
def maps(draw, n_leaves=None, multi=False):
    n = draw(st.integers(1, 8)) if n_leaves is None else n_leaves
    k = draw(st.integers(1, 5))
    rows = [draw(st.sets(st.integers(0, k-1), min_size=1, max_size=3 if multi else 1)) for _ in range(n)]
    ptr = np.cumsum([0]+[len(o) for o in rows])
    return LabelMap([f'x{i}' for i in range(n)], [f'c{i}' for i in range(k)], (ptr, [c for o in rows for c in o]))

@given(maps(multi=True), st.lists(st.integers(0, 7), max_size=20))
def test_encode_agrees_with_lookup_and_membership(m, codes):
    codes = np.array([c%len(m) for c in codes], int)
    dense = m.membership.toarray()
    for i,o in enumerate(m.leaves): assert {m.vocab[j] for j in np.flatnonzero(dense[i])}==as_set(m[o])
    out = m.encode(codes)
    sparse = m.encode(codes, sparse=True)
    assert (sparse.toarray()==dense[codes]).all()
    if m.multi: assert out.dtype==np.uint8 and (out==dense[codes]).all()
    else: assert out.dtype==np.int32 and (dense[codes][np.arange(len(codes)), out]==1).all()

def test_sparse_encode_of_more_images_than_one_piece():
    rng = np.random.default_rng(0)
    width = rng.choice([1,1,1,1,2,9], 50)
    ptr = np.r_[0, np.cumsum(width)]
    m = LabelMap([f'x{i:02d}' for i in range(50)], [f'c{i:02d}' for i in range(20)], (ptr, np.concatenate([rng.choice(20, w, replace=False) for w in width])))
    codes,mem = rng.integers(0, 50, 2**17+1000),m.membership
    out = m.encode(codes, sparse=True)
    assert (np.diff(out.indptr)==width[codes]).all() and out.indptr.dtype==out.indices.dtype==np.int32
    assert (out.indices==np.concatenate([mem.indices[mem.indptr[c]:mem.indptr[c+1]] for c in codes])).all()

@given(dags(), st.permutations(range(6)))
def test_levels_do_not_depend_on_the_levels_asked_for_before(dag, order):
    h = build(dag)
    for k in order: assert h.level(k)==build(dag).level(k)

@given(st.data())
def test_refines_and_parents(data):
    a = data.draw(maps(multi=True))
    b = data.draw(maps(len(a), multi=True))
    inside = {}
    for o in a.leaves:
        for c in as_set(a[o]): inside.setdefault(c, set()).add(frozenset(as_set(b[o])))
    assert a.refines(b)==all(len(s)==1 for s in inside.values())
    if b.multi or not a.refines(b) or len(inside)<a.n_classes:
        with pytest.raises(HierarchyError): a.parents_in(b)
    else: assert [frozenset({b.vocab[i]}) for i in a.parents_in(b)]==[next(iter(inside[c])) for c in a.vocab]

@given(st.data())
def test_composition(data):
    base = data.draw(maps(multi=True))
    m = data.draw(maps(base.n_classes, multi=True))
    m = LabelMap(base.vocab, m.vocab, tuple(m.membership[:2]))
    out = m.after(base)
    assert out.leaves==base.leaves and out.vocab==m.vocab
    for o in base.leaves: assert as_set(out[o])=={c for b in as_set(base[o]) for c in as_set(m[b])}
    assert LabelMap.identity(m.vocab).after(m)==m==m.after(LabelMap.identity(m.leaves))

def random_pair(rng, n=60, k=9, t=4):
    "A source map and a target that it refines."
    parent = np.r_[np.arange(t), rng.integers(0, t, k-t)]
    source = np.r_[np.arange(k), rng.integers(0, k, n-k)]
    leaves = [f'{i:03d}' for i in range(n)]
    return LabelMap(leaves, [f's{i}' for i in range(k)], source), LabelMap(leaves, [f't{i}' for i in range(t)], parent[source])

@given(st.integers(0, 2**32-1))
def test_readout_conserves_probability(seed):
    rng = np.random.default_rng(seed)
    m,t = random_pair(rng)
    p = rng.dirichlet(np.full(m.n_classes, .3), size=(2,5))
    q = m.readout(p, t)
    want = np.stack([p[..., m.parents_in(t)==c].sum(-1) for c in range(t.n_classes)], -1)
    assert q.shape==(2,5,4) and np.allclose(q, want) and np.allclose(q.sum(-1), 1)
    with np.errstate(divide='ignore'): assert np.allclose(np.exp(m.log_readout(np.log(p), t)), want)

def test_readout_to_a_multi_target():
    m = LabelMap.identity(['a','b','c'])
    t = LabelMap(['a','b','c'], ['x','y'], ([0,1,3,4], [0,0,1,1]))
    assert np.allclose(m.readout(np.array([.2,.3,.5]), t), [.5,.8])
    with pytest.raises(HierarchyError, match='overlapping'): t.readout(np.array([.5,.8]), m)

def test_readout_in_half_precision():
    m = LabelMap.identity([f'{i:05d}' for i in range(20_000)])
    t = LabelMap(m.leaves, ['even','odd'], np.arange(20_000)%2)
    p = np.full(20_000, 1/20_000, np.float16)
    assert m.readout(p, t).dtype==np.float32 and np.allclose(m.readout(p, t), p.astype(float).sum()/2, rtol=1e-4)
    assert np.allclose(np.exp(m.log_readout(np.log(p), t)), .5, rtol=.01)

def test_torch_readout_agrees_and_has_finite_gradients():
    torch = pytest.importorskip('torch')
    m,t = random_pair(np.random.default_rng(0))
    logits = torch.randn(3, m.n_classes, dtype=torch.double, requires_grad=True)
    logp = logits.log_softmax(-1)
    assert np.allclose(m.readout(logp.exp(), t).detach(), m.readout(logp.exp().detach().numpy(), t))
    assert np.allclose(m.log_readout(logp, t).detach(), m.log_readout(logp.detach().numpy(), t))
    assert torch.autograd.gradcheck(lambda x: m.log_readout(x.log_softmax(-1), t), logits)
    assert torch.autograd.gradcheck(lambda x: m.readout(x.softmax(-1), t), logits)
    for dtype in torch.float16,torch.bfloat16:
        half = m.log_readout(logp.to(dtype), t)
        assert half.dtype==torch.float32 and torch.allclose(half.double(), m.log_readout(logp, t), atol=.05)
        assert torch.allclose(m.readout(logp.exp().to(dtype), t).sum(-1), torch.ones(3), atol=.02)
    x = torch.full((m.n_classes,), -torch.inf)
    x[0] = 0
    x.requires_grad_()
    out = m.log_readout(x, t)
    assert out[m.parents_in(t)[0]]==0 and torch.isneginf(out).sum()==t.n_classes-1
    out[m.parents_in(t)[0]].backward()
    assert torch.isfinite(x.grad).all()

def test_labels_do_not_import_torch_or_pandas():
    code = "import sys, granularity_nb.labels.hierarchy; print([o for o in ('torch','pandas','matplotlib','sklearn','networkx') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'

def test_maps_and_hierarchies_are_immutable(pets):
    m = pets.level(1)
    for o in pets,m:
        with pytest.raises(AttributeError, match='immutable'): o.leaves = ()
        with pytest.raises(AttributeError): o.extra = 1
    for a in m.codes,m.membership.indices,pets.level(2).membership.indptr:
        with pytest.raises(ValueError): a[0] = 1
    assert len({m, pets.level(1), pets.level(2)})==2

def test_equality_ignores_the_name_and_nothing_else(pets):
    m = pets.level(1)
    assert m==m.rename('species') and m.digest==m.rename('species').digest
    for other in LabelMap(m.leaves, ['cat','wolf'], m.codes), LabelMap(m.leaves, m.vocab, 1-m.codes), pets.level(2), 'a string':
        assert m!=other

# ------------------------------------------------------------------ PYTHONHASHSEED
SEED_CODE = """
from granularity_nb.labels.hierarchy import Hierarchy
from granularity_nb.labels.controls import random_groups, random_splits
edges = {(f'n{i}', f'n{(i*7+j*3)%i}') for i in range(1, 200) for j in range(3)}
h = Hierarchy.from_edges(edges, labels={f'n{i}' for i in range(60, 200)})
maps = [h.level(2), h.depth(2), h.level(2, 'first'), h.depth(3, 'longest'), h.level(3, 'shortest'), h.cut(20), random_groups(h.cut(20), seed=1), random_splits(h.cut(5), 30)]
print(h.digest, hash(h), *[o.digest for o in maps], *[hash(o) for o in maps], h.lca_distance().sum())
"""

def test_nothing_depends_on_the_hash_seed():
    outs = {subprocess.run([sys.executable, '-c', SEED_CODE], env={**os.environ, 'PYTHONHASHSEED':seed}, capture_output=True, text=True, check=True).stdout
            for seed in ('0','1','12345')}
    assert len(outs)==1 and len(outs.pop().split())>15

# ------------------------------------------------------------------ other ways in
def test_paths_with_shared_or_separate_names():
    paths = {'poodle':[['animal','dog'],['pet','dog']], 'tabby':'animal/cat'}
    shared,apart = Hierarchy.from_paths(paths, shared=True),Hierarchy.from_paths(paths)
    assert shared.parents('dog')==('animal','pet') and shared.parents('poodle')==('dog',)
    assert apart.parents('poodle')==('animal/dog','pet/dog') and apart.leaves==('poodle','tabby')
    mixed = Hierarchy.from_paths({'dog':'animal', 'poodle':'animal/dog'})
    assert mixed.inner_leaves==('dog',) and mixed.parents('poodle')==('dog',)
    assert Hierarchy.from_paths({'small':'red', 'x':'blue/small'}).leaves==('small','x')

def test_a_rank_name_that_recurs_under_two_parents_is_two_nodes():
    table = dict(family=['Moraceae','Moraceae','Sycidae','Sycidae'], genus=['Ficus','Morus','Ficus','Sycon'], species=['carica','alba','alba','ciliatum'])
    h = Hierarchy.from_table(table, ranks=['family','genus','species'])
    assert [h.rank(r).n_classes for r in h.ranks]==[2,4,4]
    assert h.rank('genus').vocab==('Moraceae/Ficus','Morus','Sycidae/Ficus','Sycon')
    assert h.leaves==('Ficus/alba','Morus/alba','carica','ciliatum') and h.rank('family')['Ficus/alba']=='Sycidae'

def test_tables_from_files(tmp_path):
    pd = pytest.importorskip('pandas')
    df = pd.DataFrame(dict(order=['Carnivora']*2, genus=['Canis','Felis'], n=[1,2]))
    df.to_csv(tmp_path/'t.csv', index=False)
    want = Hierarchy.from_table(df, ['order','genus','n'])
    assert Hierarchy.from_table(tmp_path/'t.csv', ['order','genus','n'])==want and want.leaves==('1','2')
    pytest.importorskip('pyarrow')
    df.to_parquet(tmp_path/'t.parquet')
    assert Hierarchy.from_table(tmp_path/'t.parquet', ['order','genus','n'])==want

def test_ranks_survive_restriction_json_and_a_new_root():
    h = Hierarchy.from_table(dict(a=['x','x','y'], b=['p','q','r']), ['a','b'])
    for g in h.restrict(['p','q']), h.subtree('x'): assert g.ranks==('a','b') and g.rank('a').vocab==('x',)
    assert Hierarchy.from_dict(h.to_dict()).ranks==('a','b') and h.with_root('all').rank('a').vocab==('x','y')
    assert h.subtree('p').ranks==('b',)

def test_folders(tmp_path):
    for o in 'red/small/a.jpg','blue/small/deep/b.PNG','blue/c.jpeg': 
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).touch()
    (tmp_path/'.hidden').mkdir()
    h = Hierarchy.from_folders(tmp_path)
    assert h.leaves==('blue','deep','red/small') and h.inner_leaves==('blue',) and h.roots==('blue','red')
    (tmp_path/'top.gif').touch()
    with pytest.raises(HierarchyError, match='root='): Hierarchy.from_folders(tmp_path)
    assert Hierarchy.from_folders(tmp_path, root='all').inner_leaves==('all','blue')

def test_networkx(pets):
    pytest.importorskip('networkx')
    g = pets.to_networkx()
    assert set(g.edges)=={(p,c) for c,p in PETS} and {o for o,d in g.nodes(data=True) if d['leaf']}==set(pets.leaves)

@pytest.mark.parametrize('kind', ['auto','tree','radial','icicle','sunburst'])
def test_plots_name_every_leaf(pets, kind):
    matplotlib = pytest.importorskip('matplotlib')
    matplotlib.use('agg')
    ax = pets.plot(kind, color=pets.at(['dog','cat']))
    assert set(pets.names)<={o.get_text() for o in ax.texts}
    ax.figure.canvas.draw()
    matplotlib.pyplot.close(ax.figure)

# ------------------------------------------------------------------ faults, each naming the culprit
@pytest.mark.parametrize('edges,message', [
    ([('poodle','dog'),('dog','poodle')], r"'dog' is its own ancestor \(dog → poodle → dog\)"),
    ([('a','a'),('b','c')], r"'a' is its own ancestor \(a → a\)"),
    ([('x','a'),('a','b'),('b','c'),('c','a'),('b','d')], r"\(a → b → c → a\)"),
    ([('poodle','dog'),('tabby','cat'),('poodle','dog')], "edge 'poodle' → 'dog' is given twice"),
    ([('poodle','')], "edge 0 has a blank name: 'poodle' → ''"), ([('poodle',' \t')], 'blank name'), ([(7,'dog')], '7, not a string'), ([None], 'edge 0 is None'), ([(['x'],'dog')], 'not a string'),
    ([('poodle','dog','animal')], 'edge 0 is'), (['ab'], 'edge 0 is'), ([], 'no leaves'), ([('\ud800','dog')], 'not valid Unicode')])
def test_bad_edges(edges, message):
    with pytest.raises(HierarchyError, match=message): Hierarchy.from_edges(edges)

def test_a_long_cycle_is_shortened():
    with pytest.raises(HierarchyError, match='… 91 more …'): Hierarchy.from_edges([(f'{i:03d}', f'{(i+1)%100:03d}') for i in range(100)])

@pytest.mark.parametrize('a,b', [('poodle','Poodle'), ('caf\u00e9','cafe\u0301'), ('dog','dog '), ('\ufb01sh','fish')])
def test_names_that_look_alike_are_warned_of_once(a, b):
    with pytest.warns(HierarchyWarning) as w: h = Hierarchy.from_edges([(a,'animal'), (b,'animal')])
    assert len(w)==1 and repr(a) in str(w[0].message) and repr(b) in str(w[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        h.restrict([a]), h.level(1), h.subtree('animal')

@pytest.mark.parametrize('call,message', [
    (lambda h: Hierarchy.from_edges(PETS, labels=['poodle','wolf']), "unknown label 'wolf'"),
    (lambda h: Hierarchy.from_edges(PETS, labels=[]), 'no label'),
    (lambda h: Hierarchy.from_edges(PETS, root='dog'), "'dog' is already a node"),
    (lambda h: h.restrict(['poodle','podle']), "unknown leaf 'podle'; did you mean 'poodle'"),
    (lambda h: h.restrict(['dog']), "unknown leaf 'dog'"), (lambda h: h.restrict([]), 'no leaf'),
    (lambda h: h.restrict(['poodle','poodle']), "'poodle' is given twice"),
    (lambda h: h.subtree('wolf'), "unknown node 'wolf'"), (lambda h: h.parents('wolf'), "unknown node 'wolf'"),
    (lambda h: h.level(1)['wolf'], "unknown leaf 'wolf'"), (lambda h: h.codes(['wolf']), "unknown leaf 'wolf'"),
    (lambda h: h.level(-1), 'level must be a whole number ≥ 0'), (lambda h: h.level(1.5), 'whole number'), (lambda h: h.depth('x'), 'whole number'),
    (lambda h: h.cut(0), 'number of classes'), (lambda h: h.cut(2, 'all'), 'partition'), (lambda h: h.cut(2, 'error'), "'dog' has several parents"),
    (lambda h: h.level(1, 'frist'), "paths='frist' is not one of"), (lambda h: h.rank('genus'), 'no ranks'),
    (lambda h: h.at(['cat']), "2 leaves .*'beagle', 'poodle'"), (lambda h: h.at(['cat'], rest='dog'), "rest='dog' is a node"),
    (lambda h: h.at(['pet','animal'], 'error'), "leaf 'beagle' falls into 2 classes"),
    (lambda h: h.level(1).encode([0,4]), r'leaf code 4 \(at position 1\)'), (lambda h: h.level(1).encode([-1]), 'leaf code -1'),
    (lambda h: h.level(1).encode([.5]), 'integers'), (lambda h: h.level(2).codes, 'several classes for some leaves'),
    (lambda h: h.level(0).readout(np.ones(3), h.level(1)), 'last axis has size 3, the source map has 4'),
    (lambda h: h.at(['animal']).readout(np.ones(1), h.level(1)), "class 'animal' lies in 'cat' and in 'dog'"),
    (lambda h: h.level(0).refines(h.restrict(['poodle']).level(0)), 'different leaves'),
    (lambda h: h.level(1).after(LabelMap(['1.jpg'], ['wolf'], [0])), "'wolf' of .* is not a leaf"),
    (lambda h: h.lca_distance('poodle'), 'both a and b'), (lambda h: h.lca_distance('poodle','tabby', measure='x'), 'measure'),
    (lambda h: h.lca_distance([0,1],[2]), 'must be pairs'),
    (lambda h: Hierarchy.from_edges([('a','b'),('c','d')]).lca_distance(), "one root, but there are 2: 'b', 'd'"),
    (lambda h: h.plot('pie'), "kind='pie'"), (lambda h: h.plot(paths='all'), 'one path'),
    (lambda h: Hierarchy.from_paths([]), 'no leaves'), (lambda h: Hierarchy.from_paths(['a//b']), "blank name '' in the path 'a/"),
    (lambda h: Hierarchy.from_paths({'x': ['a/b','a/c']}), "'a/b' in a list of names contains '/'"),
    (lambda h: Hierarchy.from_paths(['a/b','a/b']), "'a/b' is given twice"),
    (lambda h: Hierarchy.from_table(dict(a=[]), ['a']), 'no leaves'), (lambda h: Hierarchy.from_table(dict(a=['x']), ['b']), "no column 'b'"),
    (lambda h: Hierarchy.from_table(dict(a=['x','y','z'], b=['p',None,float('nan')]), ['a','b']), "'b' is missing in 2 rows .*: 1, 2"),
    (lambda h: Hierarchy.from_table(dict(a=['x','x'], b=['p','p']), ['a','b']), 'row 1 of the table .* repeats'),
    (lambda h: Hierarchy([], [], []), 'no leaves'), (lambda h: Hierarchy(['a','b'], [0], [1], leaf=[1]), "'a' has no children and labels no images")])
def test_bad_use(pets, call, message):
    with pytest.raises(HierarchyError, match=message): call(pets)

@pytest.mark.parametrize('args,message', [
    ((['a','a'], ['x'], [0,0]), "leaf 'a' is given twice"), ((['a'], ['x','x'], [0]), "class 'x' is given twice"), ((['a'], [' '], [0]), 'blank'),
    ((['a','b'], ['x'], [0]), '2 leaves, but class codes for 1'), ((['a'], ['x'], [1]), "leaf 'a' has class code 1; there are 1 classes"),
    ((['a'], ['x'], [-1]), 'class code -1'), ((['a'], ['x'], [.5]), 'integers'), ((['a','b'], ['x'], ([0,0,1],[0])), "leaf 'a' has no class"),
    ((['a','b'], ['x'], ([0,1,3],[0,0])), 'class codes')])
def test_bad_label_maps(args, message):
    with pytest.raises(HierarchyError, match=message): LabelMap(*args)

@pytest.mark.parametrize('change,message', [
    (lambda d: d.pop('names'), "lacks the list 'names'"), (lambda d: d.update(format='x'), "'format' is 'x'"), (lambda d: d.update(version=2), 'version 2'),
    (lambda d: d['child'].append(99), "an entry of 'child' is not in 0…7"), (lambda d: d['parent'].append(0), '8 children, 9 parents'),
    (lambda d: d.update(leaves=[]), 'no leaves'), (lambda d: d.update(leaves=None), "lacks the list 'leaves'"),
    (lambda d: d.update(parent=[True]*8), "'parent' must be a list of integers"), (lambda d: d.update(child=[2**80]), 'list of integers'),
    (lambda d: d['names'].__setitem__(0, 3), 'not a string'), (lambda d: d.update(ranks=['r']), 'ranks for 0'), (lambda d: d.update(ranks=3), "'ranks'")])
def test_bad_json_contents(pets, tmp_path, change, message):
    d = pets.to_dict()
    change(d)
    (tmp_path/'h.json').write_text(json.dumps(d), encoding='utf-8')
    with pytest.raises(HierarchyError, match=message) as e: Hierarchy.from_json(tmp_path/'h.json')
    assert 'h.json' in str(e.value)

@pytest.mark.parametrize('data,message', [
    (b'{"names": [', 'broken JSON'), (b'', 'broken JSON'), (b'[1]', 'not a granularity hierarchy'), (b'"x"', 'not a granularity hierarchy'),
    ('{"n": "café"}'.encode('latin-1'), 'not UTF-8: byte 0xe9 at position 10'), (b'\x80\x04\x95', 'not UTF-8')])
def test_bad_json_files(tmp_path, data, message):
    (tmp_path/'h.json').write_bytes(data)
    with pytest.raises(HierarchyError, match=message): Hierarchy.from_json(tmp_path/'h.json')

def test_bad_csv_files(tmp_path):
    for data,message in (b'', 'is empty'), (b'a,b\nx\n', 'row 0 has 1 fields'), (b'a,b\nx,caf\xe9\n', 'not UTF-8'), (b'a,b\nx,\n', "'b' is missing in 1 row .*: 0"):
        (tmp_path/'t.csv').write_bytes(data)
        with pytest.raises(HierarchyError, match=message): Hierarchy.from_table(tmp_path/'t.csv', ['a','b'])

def test_csv_values_may_hold_line_breaks(tmp_path):
    names = 'two\nlines','two\r\nlines','carriage\rreturn','line\u2028separator','next\x85line','form\x0cfeed','say "x", y'
    quoted = ['"'+o.replace('"', '""')+'"' for o in names]
    for end in '\n','\r\n':
        data = 'a,b'+end+''.join(f'x,{o}{end}' for o in quoted)
        for blank in '',end,end*2:
            (tmp_path/'t.csv').write_bytes((data+blank).encode())
            assert Hierarchy.from_table(tmp_path/'t.csv', ['a','b']).leaves==tuple(sorted(names))

@pytest.mark.parametrize('data,message', [
    ('a,b,b\nx,y,z\n', "2 columns have the name 'b'"), ('a,b\nx,"y\nz\n', r'cannot be read \(broken CSV at line 3'), ('a,b\nx,"y"z\n', 'broken CSV'),
    ('a,b\nx,y\n\nz\n', "row 1 has 1 fields, the header has 2, separated by ','"), ('\n\n', 'is empty'), ('a,b\n\n', 'no rows')])
def test_bad_csv_contents(tmp_path, data, message):
    (tmp_path/'t.csv').write_bytes(data.encode())
    with pytest.raises(HierarchyError, match=message) as e: Hierarchy.from_table(tmp_path/'t.csv', ['a','b'])
    if message!='no rows': assert 't.csv' in str(e.value)

@pytest.mark.parametrize('text', ['"kind, coarse";breed\ndog;poodle\n', 'sep=;\nkind, coarse;breed\ndog;poodle\n', '"sep=|"\r\nkind, coarse|breed\r\ndog|poodle\r\n', '"kind, coarse",breed\n\ndog,poodle\n', '"kind, coarse"\t"a;b"\ndog\tpoodle\n'])
def test_separators_and_blank_lines_of_spreadsheets(tmp_path, text):
    (tmp_path/'t.csv').write_bytes(text.encode())
    t = read_table(tmp_path/'t.csv')
    assert [*t.values()] == [['dog'],['poodle']] and [*t][0] == 'kind, coarse'

def test_columns_of_unequal_length_and_of_one_name():
    with pytest.raises(HierarchyError, match="unequal length: 'a' has 3, 'b' has 2"): Hierarchy.from_table(dict(a=['x','y','z'], b=['p','q']), ['a','b'])
    with pytest.raises(HierarchyError, match="unequal length"): Hierarchy.from_table(dict(a=[], b=['p']), ['a','b'])
    pd = pytest.importorskip('pandas')
    with pytest.raises(HierarchyError, match="2 columns with the name 'b'"): Hierarchy.from_table(pd.DataFrame([['x','p','q']], columns=['a','b','b']), ['a','b'])

def test_bad_folders(tmp_path):
    with pytest.raises(HierarchyError, match='not a folder'): Hierarchy.from_folders(tmp_path/'none')
    with pytest.raises(HierarchyError, match='folder with no images'): Hierarchy.from_folders(tmp_path)
    (tmp_path/'dog').mkdir(); (tmp_path/'dog'/'1.jpg').touch(); (tmp_path/'cat').mkdir(); (tmp_path/'cat'/'note.txt').touch()
    with pytest.warns(HierarchyWarning, match='folder with no images: .*cat, left out'): assert Hierarchy.from_folders(tmp_path).leaves == ('dog',)
    (tmp_path/'cat'/'1.jpg').touch()
    try: (tmp_path/'cat'/'loop').symlink_to(tmp_path)
    except OSError: pytest.skip('no symbolic links here')
    with pytest.raises(HierarchyError, match='same folder'): Hierarchy.from_folders(tmp_path)

# ------------------------------------------------------------------ what a stranger hands in
@pytest.mark.parametrize('kw,message', [
    (dict(child=[0], parent=[-1]), "'parent' is not in 0…1: -1"), (dict(child=[0], parent=[5]), "'parent' is not in 0…1: 5"), (dict(child=[.7], parent=[1]), "'child' must be .*float64"),
    (dict(child=[0,1], parent=[1]), '2 children, 1 parents'), (dict(child=[0], parent=[1], leaf=[-2]), "'leaves' is not in 0…1: -2"), (dict(child=[[0]], parent=[[1]]), r'shape \(1, 1\)'),
    (dict(child=[0], parent=[1], ranks=('r',), rank=[0]), '2 nodes, ranks for 1'), (dict(child=[0], parent=[1], ranks=('r',), rank=[0,9]), "'rank' is not in -1…0: 9"),
    (dict(child=[0], parent=[1], ranks=('r','r'), rank=[0,0]), "rank 'r' is given twice")])
def test_indices_that_are_none(kw, message):
    with pytest.raises(HierarchyError, match=message): Hierarchy(['a','b'], **kw)

@pytest.mark.parametrize('name', ['\u200b', '\ufeff', '\u2060\u200d', '\x00', '\u3000', '\u202e '])
def test_a_name_of_which_nothing_is_seen_is_blank(name):
    with pytest.raises(HierarchyError, match='blank name'): Hierarchy.from_edges([(name,'dog')])
    with pytest.raises(HierarchyError, match='blank name'): LabelMap([name], ['x'], [0])

@pytest.mark.parametrize('name', ['👩\u200d💻', '日本語', 'می\u200cخواهم', '\ue000', 'a\nb', 'ﬁ', 'é', 'n.\u00a0b.', '\u0627\u0628'])
def test_unusual_names_pass_and_come_back(name, tmp_path):
    h = Hierarchy.from_edges([(name,'dog'), ('x','dog')])
    h.to_json(tmp_path/'h.json')
    assert name in h.leaves and Hierarchy.from_json(tmp_path/'h.json')==h and h.level(0)[name]==name

def test_names_that_differ_by_an_invisible_letter_are_warned_of():
    with pytest.warns(HierarchyWarning, match=r"'dog' and 'dog\\u200b'"): Hierarchy.from_edges([('dog','animal'), ('dog\u200b','animal')])

@pytest.mark.parametrize('n', [float('inf'), float('nan'), '2', None, [1]])
def test_numbers_that_are_none(pets, n):
    for f in pets.level,pets.depth,pets.cut:
        with pytest.raises(HierarchyError, match='whole number'): f(n)

def test_numbers_beyond_all_bounds(pets):
    assert pets.level(10**30).n_classes==1 and pets.depth(10**30).vocab==pets.leaves and pets.cut(10**30).vocab==pets.leaves

def test_chain_of_five_thousand():
    h = Hierarchy.from_edges([(f'n{i}',f'n{i+1}') for i in range(5000)]+[('side','n4999')])
    assert h.height==5000 and h.level(4999)['n0']=='n4999' and h.level(9999).vocab==('n5000',) and h.depth(1).vocab==('n4999',)
    assert h.lca_distance('n0', 'side')==5000 and h.lca_distance().tolist()==[[0,5000],[5000,0]] and h.lca_distance().dtype==np.int16
    assert Hierarchy.from_dict(json.loads(h.to_json()))==h and Hierarchy.from_paths(['/'.join(f'n{i}' for i in range(2000))]).height==1999
    assert h.cut(2).n_classes==2 and h.at(['n4999'])['side']=='n4999'

def test_one_leaf():
    h = Hierarchy(['a'], [], [])
    maps = [h.level(0), h.level(7), h.depth(0), h.depth(7), h.cut(1), h.cut(9), h.at(['a'])]
    assert all(m.vocab==('a',) and not m.multi for m in maps) and h.lca_distance().tolist()==[[0]] and h.lca('a','a')=='a' and h.restrict(['a'])==h

def test_bad_json_of_other_kinds(pets, tmp_path):
    text = pets.to_json()
    for bad,message in [('['*200_000, 'nested too deeply'), ('{"a":'*200_000, 'nested too deeply'), (text[:-1]+', "names": ["a"]}', "key 'names' is given twice"),
                        (text.replace('"version": 1', '"version": '+'1'*5000), 'broken JSON'), (text.replace('"leaves": [', '"leaves": [NaN, '), "'leaves' must be a list of integers")]:
        (tmp_path/'h.json').write_text(bad, encoding='utf-8')
        with pytest.raises(HierarchyError, match=message): Hierarchy.from_json(tmp_path/'h.json')
    (tmp_path/'h.json').write_bytes(('\ufeff'+text.replace(', ', ',\r\n')).encode()) # as a Windows editor leaves it
    assert Hierarchy.from_json(tmp_path/'h.json')==pets

TABLE = dict(kingdom=['A','A','P'], genus=['x','y','x'], species=['1','2','3'])

@pytest.mark.parametrize('dtype', ['object', 'category', 'string'])
def test_missing_cells_of_every_dtype(dtype):
    pd = pytest.importorskip('pandas')
    df = pd.DataFrame(TABLE).astype(dtype)
    assert Hierarchy.from_table(df, list(TABLE))==Hierarchy.from_table(TABLE, list(TABLE))
    for gap in None,pd.NA,float('nan'):
        bad = df.astype(object)
        bad.loc[1,'genus'] = gap
        with pytest.raises(HierarchyError, match=r"'genus' is missing in 1 row \(counted from 0\): 1"): Hierarchy.from_table(bad.astype(dtype), list(TABLE))

def test_tables_of_other_libraries_and_column_names_that_are_not_strings(tmp_path):
    pd,pa = pytest.importorskip('pandas'),pytest.importorskip('pyarrow')
    want = Hierarchy.from_table(TABLE, list(TABLE))
    assert Hierarchy.from_table(pa.table(TABLE), list(TABLE))==want
    with pytest.raises(HierarchyError, match="'genus' is missing in 1 row .*: 2"): Hierarchy.from_table(pa.table(TABLE|dict(genus=['x','y',None])), list(TABLE))
    df = pd.DataFrame(TABLE)
    df.columns = pd.MultiIndex.from_tuples([('taxon',o) for o in TABLE])
    assert Hierarchy.from_table(df, list(df.columns)).ranks==('taxon/kingdom','taxon/genus','taxon/species')
    assert Hierarchy.from_table(pd.DataFrame(list(zip(*TABLE.values()))), [0,1,2]).ranks==('0','1','2')
    assert Hierarchy.from_table(pd.DataFrame(dict(k=[1,1], s=[2,3])), ['k','s']).leaves==('2','3')
    for bad in [1,2],np.array([['a','b']]),7:
        with pytest.raises(HierarchyError, match='a table is a pandas DataFrame'): Hierarchy.from_table(bad, ['a','b'])
    with pytest.raises(HierarchyError, match="column 'genus' is given for two ranks"): Hierarchy.from_table(TABLE, ['genus','genus','species'])
    with pytest.raises(HierarchyError, match="ranks='genus' is one name"): Hierarchy.from_table(TABLE, 'genus')
    (tmp_path/'t.parquet').write_bytes(b'PAR')
    with pytest.raises(HierarchyError, match='t.parquet cannot be read'): Hierarchy.from_table(tmp_path/'t.parquet', ['a'])

@pytest.mark.parametrize('paths,message', [('a/b', 'one string'), ([None], 'path None'), ([[]], r'path \[\]'), ({'a':None}, "path of 'a' is None"), ([[1,2]], 'name 1 .*not a string'), ([3], 'path 3')])
def test_paths_that_are_none(paths, message):
    with pytest.raises(HierarchyError, match=message): Hierarchy.from_paths(paths)

def test_image_types_in_any_spelling(tmp_path):
    (tmp_path/'dog').mkdir()
    (tmp_path/'dog'/'1.TIF').touch()
    assert Hierarchy.from_folders(tmp_path, types='tif')==Hierarchy.from_folders(tmp_path, types=['.Tif'])==Hierarchy.from_folders(tmp_path)

def test_rest_must_be_a_name(pets):
    for rest in 3,' ':
        with pytest.raises(HierarchyError, match='rest'): pets.at(['dog'], rest=rest)
    with pytest.raises(HierarchyError, match='2 leaves are under none'): pets.at(['dog'])
    with pytest.raises(HierarchyError, match='1 leaf is under none'): pets.restrict(['poodle','tabby']).at(['dog'])

def test_encode_keeps_the_shape(pets):
    single,multi = pets.level(1),pets.level(2)
    assert multi.multi
    for codes in np.array(2),np.array([[0,1],[3,3]]),np.zeros((2,0,3), int):
        assert single.encode(codes).shape==codes.shape and multi.encode(codes).shape==codes.shape+(multi.n_classes,)
        assert (multi.encode(codes).reshape(-1, multi.n_classes)==multi.encode(codes.ravel())).all()
    with pytest.raises(HierarchyError, match=r'flat, not of shape \(1, 2\)'): multi.encode([[0,1]], sparse=True)

@pytest.mark.parametrize('dtype', ['int8','uint8','uint16','int64','uint64'])
def test_encode_any_integers(pets, dtype):
    torch = pytest.importorskip('torch')
    m = pets.level(1)
    assert m.encode(np.array([3,0,1], dtype)).tolist()==m.codes[[3,0,1]].tolist()
    if dtype in ('int8','uint8','int64'): assert m.encode(torch.tensor([3,0,1], dtype=getattr(torch, dtype))).tolist()==m.codes[[3,0,1]].tolist()

def test_log_readout_hands_on_what_is_not_a_number():
    torch = pytest.importorskip('torch')
    s = LabelMap.identity(list('abcd'))
    t = LabelMap(s.leaves, ['x','y'], [0,0,1,1])
    for bad in np.nan,np.inf:
        x = np.array([[bad,0,-np.inf,-np.inf]], np.float32)
        for out in s.log_readout(x, t),s.log_readout(torch.tensor(x), t).numpy():
            assert np.isnan(out[0,0]) if np.isnan(bad) else out[0,0]==np.inf
            assert out[0,1]==-np.inf

@pytest.mark.parametrize('codes', [([0.,1.],[0]), (0,0,0), [[0]], ([[0,1]],[0])])
def test_codes_that_are_none(codes):
    with pytest.raises(HierarchyError, match='flat array of integers'): LabelMap(['a'], ['x'], codes)

def test_only_a_label_map_is_a_target(pets):
    for bad in pets,3:
        with pytest.raises(HierarchyError, match='is not a label map'): pets.level(0).refines(bad)
    with pytest.raises(HierarchyError, match='unknown leaf'): pets.level(0)[['poodle']]

@pytest.mark.parametrize('kind', ['tree','radial','sunburst','icicle'])
def test_names_in_a_picture_do_not_cover_each_other(kind):
    plt = pytest.importorskip('matplotlib.pyplot')
    plt.switch_backend('Agg')
    deep = [f'a rather long name at depth {d}' for d in range(15)]
    h = Hierarchy.from_paths([[*deep[:4+i%11],f'part {i%11} below {i%4}',f'leaf {i}'] for i in range(200)])
    ax = h.plot(kind)
    ax.figure.canvas.draw()
    texts = [o.get_text() for o in ax.texts]
    assert kind in ('sunburst','icicle') or set(h.leaves)<=set(texts)
    assert len(set(texts)-set(h.leaves))>=2 and len(texts)<len(h)
    if kind in ('tree','icicle'): # their names are level, so the boxes around them are exact
        box = np.array([o.get_window_extent().extents for o in ax.texts])
        over = (box[:,None,:2]+1<box[None,:,2:]-1).all(-1)
        assert not np.triu(over&over.T, 1).any()
    plt.close(ax.figure)


breeds = dict(kingdom=['plants','animals','plants','fungi'], breed=['tabby','tabby','oak','morel'])
by_path = ['plants/tabby','animals/tabby','plants/oak','fungi/morel']

@pytest.mark.parametrize('make', [lambda **kw: Hierarchy.from_table(breeds, ['kingdom','breed'], **kw), lambda **kw: Hierarchy.from_paths(by_path, **kw),
                                  lambda **kw: taxonomy_table(breeds, ['kingdom','breed'], **kw), lambda **kw: taxonomy_table(dict(p=by_path), path='p', **kw)])
def test_a_name_under_two_parents_is_said_until_it_is_asked_for(make):
    import warnings
    with pytest.warns(HierarchyWarning, match=r"1 name under several parents.*'tabby' \('plants/tabby', 'animals/tabby'\).*shared=True.*shared=False"): h = make()
    assert h.leaves == ('animals/tabby','morel','oak','plants/tabby')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert make(shared=False).leaves == h.leaves
        one = make(shared=True)
    assert one.leaves == ('morel','oak','tabby') and one.parents('tabby') == ('animals','plants')

def taxonomy_table(*args, **kw):
    from granularity_nb.labels.taxonomy import table
    return table(*args, **kw)

def test_one_node_for_each_name_of_a_table_keeps_ranks_and_refuses_a_name_in_two():
    one = Hierarchy.from_table(breeds, ['kingdom','breed'], shared=True)
    assert one.ranks == ('kingdom','breed') and not one.is_tree and one.rank('breed').n_classes == 3
    with pytest.raises(HierarchyError, match="'tabby' is a name in the columns 'kingdom' and 'breed'.*rename"):
        Hierarchy.from_table(dict(kingdom=['tabby','animals'], breed=['oak','tabby']), ['kingdom','breed'], shared=True)

def test_folders_of_one_name_are_said(tmp_path):
    for o in ('cat/other','dog/other'):
        (tmp_path/o).mkdir(parents=True)
        (tmp_path/o/'1.jpg').touch()
    with pytest.warns(HierarchyWarning, match="'other' \\('cat/other', 'dog/other'\\)"): Hierarchy.from_folders(tmp_path)
    assert Hierarchy.from_folders(tmp_path, shared=True).leaves == ('other',)

@pytest.mark.filterwarnings('error')
def test_a_name_below_its_namesake_is_no_slip():
    h = Hierarchy.from_table(dict(genus=['Felis','Felis','Canis'], species=['Felis','catus','lupus']), ['genus','species']) # an unknown species filled with its genus
    assert h.n_leaves == 3

@pytest.mark.parametrize('xs', [np.array(['b','a']), [np.str_('b'), 'a']])
def test_names_are_pythons_own_strings(xs):
    import enum
    class Pet(str, enum.Enum): b = 'b'
    m = LabelMap(xs, np.array(['x','y']), [0,1], name=np.str_('odd'))
    made = [m.leaves, m.vocab, [m.name], LabelMap.identity(xs).leaves, Hierarchy(list(xs)+['r'], [0,1], [2,2]).names, Hierarchy.from_edges([(o,'r') for o in xs]).names,
            Hierarchy.from_edges([('p', o) for o in xs], root=np.str_('r')).names, Hierarchy.from_paths({o: [np.str_('r')] for o in xs}).names, Hierarchy.from_paths([[np.str_('r'), o] for o in xs]).names,
            Hierarchy.from_table(dict(g=['x','x'], s=xs), np.array(['g','s'])).names, Hierarchy.from_table(dict(g=['x','x'], s=xs), np.array(['g','s'])).ranks, LabelMap.identity([Pet.b]).leaves]
    assert all(type(o) is str for names in made for o in names) and 'np.str_' not in repr(made)
    with pytest.raises(HierarchyError, match=r"^unknown leaf 'c'"): m[np.str_('c')]
    with pytest.raises(HierarchyError, match=r"^unknown leaf 'c'"): m.restrict([np.str_('c')])

def test_cells_that_are_no_text_become_it_or_are_refused():
    import datetime
    pd = pytest.importorskip('pandas')
    days = [datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)]
    for cells,want in [(days, ['2024-02-29','2024-03-01']), ([True,False], ['False','True']), (np.array([2.5,1]), ['1.0','2.5']), (np.array(days, 'datetime64[D]'), ['2024-02-29','2024-03-01']), (pd.Series([7,8], dtype='Int64'), ['7','8'])]:
        assert list(Hierarchy.from_table(dict(g=['x','x'], s=cells), ['g','s']).leaves) == want
    for bad in (b'a', ['a'], object()):
        with pytest.raises(HierarchyError, match='no name: write it as text'): Hierarchy.from_table(dict(g=['x','x'], s=['b', bad]), ['g','s'])
        with pytest.raises(HierarchyError, match='no name: write it as text'): taxonomy_table(dict(s=['b', bad]), path='s')
