"Objectives against loops in float64, timm and PyTorch; gradients; float16 and bfloat16 extremes; wrong use."
import math
import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.training.objectives import HXE, Levels, Marginal, SemanticSoftmax, Sigmoid, Softmax, SoftLabels, objective, objective_names
from granularity_nb.training.recipe import TrainingError

UNEVEN = {'poodle': ['thing','animal','dog'], 'beagle': ['thing','animal','dog'], 'tabby': ['thing','animal','cat'],
          'truck': ['thing','vehicle'], 'bus': ['thing','vehicle'], 'rock': ['thing']}


def tree(rng, n, deep=4):
    "A random tree as {leaf: path}: leaves at different depths, chains of only children, at times several roots."
    return Hierarchy.from_paths({f'leaf{i:03}': [f'root{rng.integers(1, 3)}', *(f'{d}.{rng.integers(3)}' for d in range(rng.integers(0, deep)))] for i in range(n)})


def path(h, leaf):
    "Nodes from a root down to a leaf, by names alone; trees only."
    out = [leaf]
    while h.parents(out[0]): out.insert(0, h.parents(out[0])[0])
    return out


def log_p(h, x):
    "Function node → log-probability of the leaves at or below it, from logits, in float64 and with Python's own sums."
    x = [float(v) for v in x]
    top = max(x)
    total = math.log(math.fsum(math.exp(v-top) for v in x))+top
    lp = dict(zip(h.leaves, [v-total for v in x]))
    def of(node):
        vs = [lp[o] for o in h.leaves if node in path(h, o)]
        m = max(vs)
        return math.log(math.fsum(math.exp(v-m) for v in vs))+m
    return of


def hxe_loop(h, x, y, alpha):
    "Bertinetto et al. 2020, eq. 3-5, node by node."
    p,of = path(h, h.leaves[y]),log_p(h, x)
    root = -of(p[0]) if len(h.roots) > 1 else 0.
    return root-math.fsum(math.exp(-alpha*d)*(of(p[d])-of(p[d-1])) for d in range(1, len(p)))


def soft_loop(h, x, y, beta):
    "Eq. 6, class by class: distance is the height of the lowest common ancestor over the largest there is."
    paths,of = {o: path(h, o) for o in h.leaves},log_p(h, x)
    def height(node): return max(len(p)-1-p.index(node) for p in paths.values() if node in p)
    def lca(a, b): return [u for u,v in zip(paths[a], paths[b]) if u == v][-1]
    top = max(1, max(height(r) for r in h.roots))
    w = [math.exp(-beta*(0 if o == h.leaves[y] else height(lca(o, h.leaves[y])))/top) for o in h.leaves]
    return -math.fsum(a*of(o) for a,o in zip(w, h.leaves))/math.fsum(w)


def semantic_loop(h, nodes, x, y, smoothing=0., most=20.):
    "Ridnik et al. 2021: a softmax for each depth with more than one node, weighted by all nodes over those at least as deep."
    depth = {o: len(path_to(h, o))-1 for o in h.names}
    count = lambda ok: sum(ok(d) for d in depth.values())
    total = 0.
    for d in range(max(depth.values())+1):
        here = [i for i,o in enumerate(nodes) if depth[o] == d]
        if count(lambda k: k == d) < 2: continue
        p = path(h, h.leaves[y])
        if len(p) <= d: continue
        v = np.array([x[i] for i in here], float)
        v -= v.max()+math.log(np.exp(v-v.max()).sum())
        hit = [nodes[i] for i in here].index(p[d])
        w = min(count(lambda k: True)/count(lambda k: k >= d), most)
        total -= w*((1-smoothing)*v[hit]+smoothing*v.mean())
    return total


def path_to(h, node):
    out = [node]
    while h.parents(out[0]): out.insert(0, h.parents(out[0])[0])
    return out


@given(st.integers(0, 2**31), st.floats(0, 3), st.integers(2, 14))
@settings(max_examples=40)
def test_hxe_equals_the_loop(seed, alpha, n):
    rng = np.random.default_rng(seed)
    h = tree(rng, n)
    x,y = torch.from_numpy(rng.normal(0, 5, (4, n))),torch.from_numpy(rng.integers(0, n, 4))
    ours = HXE(h, alpha, reduction='none')(x, y)
    assert np.allclose(ours, [hxe_loop(h, *o, alpha) for o in zip(x, y)], rtol=1e-9, atol=1e-9)
    assert np.allclose(HXE(h, alpha, reduction='none')(x.float(), y), ours, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 2**31), st.floats(0, 30), st.integers(2, 14))
@settings(max_examples=40)
def test_soft_labels_equal_the_loop(seed, beta, n):
    rng = np.random.default_rng(seed)
    h = Hierarchy.from_paths({f'leaf{i:03}': ['root', *(f'{d}.{rng.integers(3)}' for d in range(rng.integers(0, 4)))] for i in range(n)})
    x,y = torch.from_numpy(rng.normal(0, 5, (4, n))),torch.from_numpy(rng.integers(0, n, 4))
    assert np.allclose(SoftLabels(h, beta, reduction='none')(x, y), [soft_loop(h, *o, beta) for o in zip(x, y)], rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**31), st.sampled_from([0., .1]), st.integers(2, 14))
@settings(max_examples=40)
def test_semantic_softmax_equals_the_loop(seed, smoothing, n):
    rng = np.random.default_rng(seed)
    h = tree(rng, n)
    f = SemanticSoftmax(h, smoothing, most=3., reduction='none')
    assert len(f.nodes) == f.n_outputs == sum(f.sizes) and len(set(f.nodes)) == len(f.nodes)
    x,y = torch.from_numpy(rng.normal(0, 5, (4, f.n_outputs))),torch.from_numpy(rng.integers(0, n, 4))
    assert np.allclose(f(x, y), [semantic_loop(h, f.nodes, *o, smoothing, 3.) for o in zip(x, y)], rtol=1e-9, atol=1e-9)


def test_hxe_without_discount_is_cross_entropy():
    for h in (Hierarchy.from_paths(UNEVEN), Hierarchy.from_edges([('a','x'), ('b','x'), ('c','y')])): # one root, several
        x,y = torch.randn(20, h.n_leaves)*4, torch.randint(0, h.n_leaves, (20,))
        assert torch.allclose(HXE(h, 0.)(x, y), F.cross_entropy(x, y), rtol=1e-5)


def test_hard_soft_labels_are_cross_entropy():
    h = Hierarchy.from_paths(UNEVEN)
    x,y = torch.randn(20, 6)*4, torch.randint(0, 6, (20,))
    assert torch.allclose(SoftLabels(h, 1e4)(x, y), F.cross_entropy(x, y), rtol=1e-5)
    assert torch.allclose(SoftLabels(h, 0.)(x, y), -x.log_softmax(-1).mean(), rtol=1e-5)


def test_classes_that_are_inner_nodes():
    "A node with children may label images too: then it competes with its children below itself."
    h = Hierarchy.from_edges([('dog','animal'), ('cat','animal'), ('poodle','dog'), ('beagle','dog')], labels=['dog','cat','poodle','beagle'])
    assert h.inner_leaves == ('dog',)
    x = torch.randn(1, 4, dtype=torch.float64)
    lp = dict(zip(h.leaves, x.log_softmax(-1)[0]))
    dogs = torch.stack([lp[o] for o in ('dog','poodle','beagle')]).logsumexp(0)
    at = lambda o: torch.tensor([h.leaves.index(o)])
    assert torch.allclose(HXE(h, .5)(x, at('poodle')), -(math.exp(-.5)*dogs+math.exp(-1)*(lp['poodle']-dogs)))
    assert torch.allclose(HXE(h, .5)(x, at('cat')), -math.exp(-.5)*lp['cat'])
    assert torch.allclose(HXE(h, 0.)(x, at('dog')), F.cross_entropy(x, at('dog')))
    f = SemanticSoftmax(h)
    assert set(f.nodes) == {'dog','cat','poodle','beagle'}
    x = torch.zeros(1, 4)
    assert math.isclose(f(x, at('dog')).item(), 5/4*math.log(2), rel_tol=1e-6) # scored at depth 1 only; five nodes, four as deep


def test_a_dag_follows_the_chosen_path():
    h = Hierarchy.from_edges([('poodle','dog'), ('poodle','pet'), ('dog','animal'), ('wolf','dog'), ('animal','thing'), ('pet','thing'), ('goldfish','pet')])
    x,y = torch.randn(8, 3), torch.randint(0, 3, (8,))
    for paths,up in (('longest','dog'), ('shortest','pet')):
        t = Hierarchy.from_edges([('poodle',up), ('dog','animal'), ('wolf','dog'), ('animal','thing'), ('pet','thing'), ('goldfish','pet')])
        for f in (HXE, SoftLabels): assert torch.allclose(f(h, 1., paths=paths)(x, y), f(t, 1.)(x, y)), (paths, f)
    with pytest.raises(TrainingError, match='all'): HXE(h, paths='all')


def test_a_confident_mistake_is_never_free():
    "As published, the loss of a confident mistake is exactly 0, because its softmax underflows. Ours grows with the confidence."
    h = Hierarchy.from_paths(UNEVEN)
    y = torch.tensor([h.leaves.index('poodle')])
    for wrong in ('beagle','tabby','truck','rock'):
        losses = []
        for height in (1., 10, 100, 1000, 30_000, 60_000):
            x = torch.zeros(1, 6, dtype=torch.float16)
            x[0, h.leaves.index(wrong)] = height
            x.requires_grad_()
            loss = HXE(h, .5)(x, y)
            g, = torch.autograd.grad(loss, x)
            assert torch.isfinite(g).all() and (height < 10 or g[0, h.leaves.index(wrong)] > .01), (wrong, height)
            losses.append(loss.item())
        assert (np.diff(losses) > 0).all() and losses[-1] > 1000
        p = (F.one_hot(torch.tensor([h.leaves.index(wrong)]), 6)*1000.).softmax(-1)
        assert p[0, y].item() == 0, 'the published sum would skip this factor'


def losses():
    h = Hierarchy.from_paths(UNEVEN)
    dag = Hierarchy.from_edges([('a','x'), ('a','y'), ('b','x'), ('c','y'), ('d','z'), ('e','z')])
    up = h.depth(1, 'longest')
    out = {s: objective(s, h.level(0), h) for s in ('softmax','softmax:0.1','hxe:0.5','soft:5','semantic','semantic:0.1')}
    return out | dict(marginal=Marginal(h.level(0), up), levels=Levels([h.level(0), up], [1, .3]), multi=Levels([dag.level(0), dag.level(1)]))


@pytest.mark.parametrize('name', losses())
def test_gradient(name):
    f = losses()[name]
    classes = 3 if name == 'marginal' else f.n_leaves if hasattr(f, 'n_leaves') else 6
    torch.manual_seed(0)
    y = torch.randint(0, classes, (5,))
    x = torch.randn(5, f.n_outputs, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: f(x, y), x) and torch.autograd.gradgradcheck(lambda x: f(x, y), x)


def test_sigmoid_gradient():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 2, (3, 5))
    for s in (False, True): assert torch.autograd.gradcheck(lambda x: Sigmoid(5, s)(x, y), x)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', losses())
def test_half_precision_extremes(name, dtype):
    "Largest logits that float16 has, in every position: finite loss, finite gradient; and the value of float64 to 1e-3."
    f = losses()[name]
    classes = 3 if name == 'marginal' else f.n_leaves if hasattr(f, 'n_leaves') else 6
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        x = (torch.randint(-1, 2, (classes, f.n_outputs), generator=g)*60_000.).to(dtype).requires_grad_()
        y = torch.arange(classes)
        loss = f(x, y)
        grad, = torch.autograd.grad(loss, x)
        assert loss.dtype == torch.float32 and torch.isfinite(loss) and torch.isfinite(grad).all() and grad.dtype == dtype
        assert math.isclose(loss.item(), f(x.double(), y).item(), rel_tol=1e-3, abs_tol=1e-3)


@pytest.mark.parametrize('name', losses())
def test_autocast_does_not_lower_the_precision(name):
    f = losses()[name]
    x,y = torch.randn(2, f.n_outputs)*50, torch.tensor([0, 1])
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = f(x, y)
    assert torch.equal(inside, f(x, y))


def test_softmax_and_sigmoid_equal_pytorch_and_timm():
    timm = pytest.importorskip('timm.loss')
    x,y = torch.randn(50, 7)*3, torch.randint(0, 7, (50,))
    assert torch.allclose(Softmax(7, .1)(x, y), timm.LabelSmoothingCrossEntropy(.1)(x, y), rtol=1e-5)
    t = (torch.rand(50, 7) < .3).float()
    assert torch.allclose(Sigmoid(7)(x, t), timm.BinaryCrossEntropy(smoothing=0., reduction='mean')(x, t), rtol=1e-5)
    assert torch.allclose(Sigmoid(7, sum_classes=True)(x, t), timm.BinaryCrossEntropy(smoothing=0., reduction='mean', sum_classes=True)(x, t), rtol=1e-5)


def test_reductions_agree():
    f = {r: HXE(Hierarchy.from_paths(UNEVEN), reduction=r) for r in ('none','sum','mean')}
    x,y = torch.randn(9, 6), torch.randint(0, 6, (9,))
    each = f['none'](x, y)
    assert each.shape == (9,) and torch.allclose(each.sum(), f['sum'](x, y)) and torch.allclose(each.mean(), f['mean'](x, y))
    with pytest.raises(TrainingError, match='median'): HXE(Hierarchy.from_paths(UNEVEN), reduction='median')


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_marginal_is_minus_log_of_the_summed_softmax(seed):
    rng = np.random.default_rng(seed)
    n,c,t = 12,int(rng.integers(2, 8)),int(rng.integers(1, 4))
    leaves = [f'l{i}' for i in range(n)]
    fine = np.r_[np.arange(c), rng.integers(0, c, n-c)]
    over = np.r_[np.arange(min(t, c)), rng.integers(0, min(t, c), max(0, c-t))]
    s,target = LabelMap(leaves, [f'c{i}' for i in range(c)], fine, name='s'),LabelMap(leaves, [f't{i}' for i in range(min(t, c))], over[fine], name='t')
    x,y = torch.from_numpy(rng.normal(0, 30, (6, c))),torch.from_numpy(rng.integers(0, min(t, c), 6))
    p = np.exp(x.numpy()-x.numpy().max(1, keepdims=True))
    loop = [-np.log(sum(p[i,k] for k in range(c) if over[k] == y[i])/p[i].sum()) for i in range(6)]
    assert np.allclose(Marginal(s, target, reduction='none')(x, y), loop, rtol=1e-8, atol=1e-8)


def test_marginal_refuses_what_it_cannot_score():
    leaves = ['a','b']
    s = LabelMap.identity(leaves)
    with pytest.raises(TrainingError, match="'none'"): Marginal(s, LabelMap(leaves, ['all','none'], [0, 0], name='t'))
    with pytest.raises(ValueError): Marginal(LabelMap(leaves, ['all'], [0, 0]), s) # does not refine
    with pytest.raises(TrainingError, match='single'): Marginal(s, Hierarchy.from_edges([('a','x'), ('a','y'), ('b','x')]).level(1))


def test_levels_relabel_leaves():
    h = Hierarchy.from_edges([('a','x'), ('a','y'), ('b','x'), ('c','y'), ('d','y')])
    leaf,up = h.level(0),h.level(1)
    assert up.multi
    f,x,y = Levels([leaf, up], [2., .5], sum_classes=True, reduction='none'),torch.randn(4, 6),torch.arange(4)
    member = torch.from_numpy(up.membership.toarray()).float()
    ref = 2*F.cross_entropy(x[:,:4], y, reduction='none')+.5*F.binary_cross_entropy_with_logits(x[:,4:], member, reduction='none').sum(1)
    assert torch.allclose(f(x, y), ref, rtol=1e-6)
    assert f.activation(x).shape == x.shape and torch.allclose(f.activation(x)[:,:4].sum(1), torch.ones(4))
    with pytest.raises(TrainingError, match='weights'): Levels([leaf, up], [1.])
    with pytest.raises(TrainingError, match='other leaves'): Levels([leaf, LabelMap.identity(['q'])])
    with pytest.raises(TrainingError, match='no label maps'): Levels([])


def test_losses_move_between_devices_without_being_saved():
    f = HXE(Hierarchy.from_paths(UNEVEN))
    assert not f.state_dict() and len(list(f.buffers())) > 2
    assert all(b.device.type == 'meta' for b in f.to('meta').buffers())


def test_by_name():
    h = Hierarchy.from_paths(UNEVEN)
    x,y = torch.randn(5, 6), torch.randint(0, 6, (5,))
    assert torch.equal(objective('hxe:0.7', h.level(0), h)(x, y), HXE(h, .7)(x, y))
    assert isinstance(objective('auto', h.level(0)), Softmax)
    multi = Hierarchy.from_edges([('a','x'), ('a','y'), ('b','x')]).level(1)
    assert isinstance(objective('auto', multi), Sigmoid)
    above = h.depth(2, 'longest') # classes that are inner nodes: dog, cat, and leaves nearer to the root
    f = objective('hxe', above, h)
    assert f.n_outputs == above.n_classes
    for spec,m,word in (('focal', h.level(0), 'semantic'), ('hxe:x', h.level(0), "'x'"), ('softmax', multi, 'sigmoid'), ('sigmoid', h.level(0), 'softmax'), ('hxe:-1', h.level(0), 'negative')):
        with pytest.raises(TrainingError, match=word): objective(spec, m, h)
    with pytest.raises(TrainingError, match='hierarchy'): objective('hxe', h.level(0))
    assert {s.partition(':')[0] for s in objective_names} <= {'auto','softmax','sigmoid','hxe','soft','semantic'}


def test_wrong_shapes_are_named():
    f = Softmax(6)
    with pytest.raises(TrainingError, match=r'\(n, 6\)'): f(torch.randn(2, 5), torch.tensor([0, 1]))
    with pytest.raises(TrainingError, match=r'\(n, 6\)'): f(torch.randn(6), torch.tensor(0))


def test_a_learner_trains_on_each():
    from fastai.data.core import DataLoaders
    from fastai.callback.progress import ProgressCallback # gives Learner no_bar
    from fastai.learner import Learner
    h = Hierarchy.from_paths(UNEVEN)
    torch.manual_seed(0)
    data = [(torch.eye(6)[i]+.1*torch.randn(6), i) for i in range(6) for _ in range(10)]
    for spec in ('softmax','hxe:0.3','soft:20','semantic'):
        f = objective(spec, h.level(0), h)
        dls = DataLoaders.from_dsets(data, data, bs=20, device='cpu')
        learn = Learner(dls, torch.nn.Linear(6, f.n_outputs), loss_func=f)
        with learn.no_bar(), learn.no_logging(): learn.fit(30, .1)
        if spec == 'semantic': continue
        p,y,decoded = learn.get_preds(with_decoded=True)
        assert torch.allclose(p.sum(1), torch.ones(len(p)), atol=1e-5) and (decoded == y).float().mean() > .9, spec


def test_sigmoid_sum_is_reached_by_its_name():
    h = Hierarchy.from_edges([('a','x'), ('a','y'), ('b','x'), ('c','y'), ('x','r'), ('y','r')])
    m = h.level(1)
    assert m.multi
    x,y = torch.randn(5, m.n_classes),(torch.rand(5, m.n_classes) > .5).float()
    mean,total = objective('sigmoid', m)(x, y),objective('sigmoid:sum', m)(x, y)
    assert torch.allclose(total, m.n_classes*mean) and torch.allclose(total, torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction='sum')/5)
    with pytest.raises(TrainingError, match="'total' is not 'sum'"): objective('sigmoid:total', m)
