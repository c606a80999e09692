"The probe against scikit-learn and an own gradient; the head from subclasses against a loop."
import warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.training.probe import ABSENT, C_grid, fit_probe, grid_place, mean_head
from granularity_nb.training.recipe import TrainingError


def data(n=200, d=6, c=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(c), rng.integers(0, c, n-c)]
    return (rng.standard_normal((n, d))*10.**rng.integers(-2, 3, d)+np.eye(c, d)[y]).astype(np.float64), y


def soft(z):
    e = np.exp(z-z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)


@pytest.mark.parametrize('standardise', [True, False])
@pytest.mark.parametrize('c', [2, 3, 5])
def test_probe_equals_scikit_learn(standardise, c):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    (x,y),(xv,yv) = data(c=c),data(c=c, seed=1)
    p = fit_probe(x, y, xv, yv, c, standardise, Cs=[.1], max_iter=5000)
    ref = make_pipeline(*([StandardScaler()] if standardise else []), LogisticRegression(C=.1, max_iter=5000)).fit(x, y)
    assert np.abs(soft(p.logits(xv))-ref.predict_proba(xv)).max() < 5e-3 and p.weight.shape == (c, 6)


def test_probe_is_a_minimum_of_its_stated_loss():
    "The gradient of cross-entropy plus ‖w‖²/2C vanishes, in the standardised features."
    (x,y),(xv,yv) = data(),data(seed=1)
    p = fit_probe(x, y, xv, yv, 3, Cs=[.5], max_iter=5000)
    mean,std = x.mean(0),x.std(0)+1e-6
    z = (x-mean)/std
    w = p.weight*std
    g = (soft(p.logits(x))-np.eye(3)[y]).T@z+w/.5
    assert np.abs(g).max() < 1e-2*len(x)**.5 and np.abs((soft(p.logits(x))-np.eye(3)[y]).sum(0)).max() < .1


def test_the_lowest_validation_loss_wins():
    (x,y),(xv,yv) = data(n=60),data(n=500, seed=1)
    p = fit_probe(x, y, xv, yv, 3, Cs=[1e-3, 1e-1, 10.])
    assert p.C == min(p.losses, key=p.losses.get) and list(p.losses) == [1e-3, 1e-1, 10.]
    one = {c: fit_probe(x, y, xv, yv, 3, Cs=[c]) for c in p.losses}
    for c,o in one.items(): assert np.isclose(p.losses[c], -np.log(soft(o.logits(xv))[np.arange(len(yv)), yv]).mean(), rtol=1e-6)
    assert np.array_equal(p.weight, one[p.C].weight)


def test_the_end_of_the_grid_is_told():
    (x,y),(xv,yv) = data(),data(seed=1)
    with pytest.warns(UserWarning, match='at the end'): fit_probe(x*1e-4, y, xv*1e-4, yv, 3, standardise=False, Cs=[1e-6, 1e-5, 1e-4])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit_probe(x, y, xv, yv, 3, Cs=[.1]) # one value is no search


def test_the_place_of_a_choice_is_kept():
    (x,y),(xv,yv) = data(),data(seed=1)
    p = fit_probe(x, y, xv, yv, 3)
    assert tuple(p.losses) == C_grid == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1., 10., 100.) and p.place == grid_place(p.C, C_grid)
    with pytest.warns(UserWarning, match='at the end'): low = fit_probe(x*1e-4, y, xv*1e-4, yv, 3, standardise=False, Cs=[1e-6, 1e-5, 1e-4])
    assert (low.C, low.place) == (1e-6, 'lowest') and fit_probe(x, y, xv, yv, 3, Cs=[.1]).place == 'only'
    assert [grid_place(o, (3, 1, 2)) for o in (1, 2, 3)] == ['lowest', 'inside', 'highest']


def test_a_fit_that_does_not_converge_is_told_once():
    (x,y),(xv,yv) = data(),data(seed=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        short = fit_probe(x, y, xv, yv, 3, Cs=(1., 10., 100.), max_iter=2)
    told = [str(o.message) for o in said]
    assert not short.converged and sum('was not solved' in o for o in told) == 1 and not any('lbfgs' in o for o in told)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert fit_probe(x, y, xv, yv, 3, Cs=[.1]).converged


def test_scale_does_not_matter_once_standardised():
    (x,y),(xv,yv) = data(),data(seed=1)
    s = 10.**np.arange(-3, 3)
    a,b = fit_probe(x, y, xv, yv, 3),fit_probe(x*s, y, xv*s, yv, 3)
    assert a.C == b.C and np.abs(soft(a.logits(xv))-soft(b.logits(xv*s))).max() < 2e-2


def test_classes_without_training_images():
    (x,y),(xv,yv) = data(c=3),data(c=4, seed=1)
    p = fit_probe(x, 2*y, xv, yv, 6)
    assert (p.bias[[1,3,5]] == ABSENT).all() and not p.weight[[1,3,5]].any() and set(p.logits(xv).argmax(1)) <= {0, 2, 4}


def test_same_head_as_the_transfer():
    "What `linear_probe` does with images, done with their features."
    from granularity_nb.training import transfer
    if not hasattr(transfer, '_logistic'): pytest.skip('transfer uses fit_probe itself')
    import torch
    (x,y),(xv,yv) = data(),data(seed=1)
    x,xv = x.astype(np.float32),xv.astype(np.float32)
    mean,std = x.mean(0),x.std(0)+1e-6
    m = transfer._logistic((x-mean)/std, y, (xv-mean)/std, yv, (1e-3, 1e-2, 1e-1))
    body = torch.nn.Linear(1, 6)
    body.num_features = 6
    head = transfer._fold(body, m, mean, std, LabelMap.identity(list('abc'))).head
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        p = fit_probe(x, y, xv, yv, 3, Cs=(1e-3, 1e-2, 1e-1))
    assert np.array_equal(head.weight.detach().numpy(), p.weight.astype(np.float32)) and np.array_equal(head.bias.detach().numpy(), p.bias.astype(np.float32))


@pytest.mark.parametrize('change,word', [(dict(x=np.zeros((3, 2))), 'shape'), (dict(x=np.full((200, 6), np.inf)), 'not finite'), (dict(y=np.zeros(200, int)), 'one class'),
                                         (dict(n_classes=2), '2 classes'), (dict(Cs=[]), 'no C'), (dict(xv=np.zeros((0, 6)), yv=np.zeros(0, int)), 'no validation images'),
                                         (dict(x=np.zeros((0, 6)), y=np.zeros(0, int)), 'no training images'), (dict(yv=np.full(200, 3), n_classes=4), 'none of the 200 validation images')])
def test_bad_input_is_named(change, word):
    (x,y),(xv,yv) = data(),data(seed=1)
    with pytest.raises(TrainingError, match=word): fit_probe(**dict(x=x, y=y, xv=xv, yv=yv, n_classes=3) | change)


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_mean_head_equals_the_loop(seed):
    rng = np.random.default_rng(seed)
    c,t = int(rng.integers(2, 9)),int(rng.integers(1, 4))
    t = min(t, c)
    leaves = [f'l{i}' for i in range(c)]
    of = np.r_[np.arange(t), rng.integers(0, t, c-t)]
    source,target = LabelMap.identity(leaves),LabelMap(leaves, [f't{i}' for i in range(t)], of)
    w,b = rng.standard_normal((c, 5)),rng.standard_normal(c)
    wm,bm = mean_head(w, b, source, target)
    for k in range(t):
        rows = [i for i in range(c) if of[i] == k]
        assert np.allclose(wm[k], sum(w[i] for i in rows)/len(rows)) and np.isclose(bm[k], sum(b[i] for i in rows)/len(rows)+np.log(len(rows)))
    x = rng.standard_normal((4, 5))
    z = x@w.T+b
    lse = np.stack([np.log(np.exp(z[:,of == k]).sum(1)) for k in range(t)], 1)
    assert (x@wm.T+bm <= lse+1e-9).all(), 'a lower bound, by Jensen'


def test_equal_subclasses_make_an_exact_head():
    leaves = list('abc')
    w,b = np.tile([[1., 2.]], (3, 1)),np.full(3, .5)
    wm,bm = mean_head(w, b, LabelMap.identity(leaves), LabelMap(leaves, ['x','y'], [0, 0, 1]))
    assert np.allclose(wm, [[1, 2]]*2) and np.allclose(bm, [.5+np.log(2), .5])


def test_mean_head_refuses_what_does_not_fit():
    h = Hierarchy.from_paths({'a': ['x'], 'b': ['x'], 'c': ['y']})
    with pytest.raises(TrainingError, match='3 classes'): mean_head(np.zeros((2, 4)), np.zeros(2), h.level(0), h.level(1))
    with pytest.raises(ValueError, match='refine'): mean_head(np.zeros((2, 4)), np.zeros(2), h.level(1), h.level(0))
    with pytest.raises(TrainingError, match="'z'"): mean_head(np.zeros((3, 4)), np.zeros(3), h.level(0), LabelMap(h.leaves, ['x','y','z'], [0, 0, 1], name='t'))
