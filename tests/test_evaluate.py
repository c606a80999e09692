"Predictions and their summaries against torchmetrics, scikit-learn and loops; stored predictions; wrong use."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.training.evaluate import Predictions, class_hierarchy, load_predictions, predictions, save_predictions
from granularity_nb.training.recipe import TrainingError


def some(n=300, c=8, seed=0, sharp=2.):
    rng = np.random.default_rng(seed)
    logp = torch.from_numpy(sharp*rng.standard_normal((n, c))).float().log_softmax(-1)
    return logp, rng.integers(0, c, n)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 9))
@settings(max_examples=40)
def test_what_is_kept_equals_the_loop(seed, n, c):
    logp,y = some(n, c, seed)
    p = predictions(logp, y)
    for i,(row,t) in enumerate(zip(logp.tolist(), y)):
        assert p.predicted[i] == int(np.argmax(row)) and p.truth[i] == t and np.isclose(p.log_p[i], row[t])
        assert np.isclose(p.confidence[i], np.exp(max(row)), rtol=1e-5) and p.rank[i] == sum(v > row[t] for v in row)
    assert p.top_error(1) == p.error and p.top_error(c) == 0
    assert p.predicted.dtype == p.truth.dtype == p.rank.dtype == np.int32 and p.log_p.dtype == p.confidence.dtype == np.float32


def test_ties_are_no_hit():
    p = predictions(torch.zeros(4, 10).log_softmax(-1), [0, 1, 5, 9])
    assert p.top_error(1) == p.error == .75 and p.top_error(4) == .75 and p.top_error(5) == 0


def test_error_and_top_k_equal_scikit_learn():
    from sklearn.metrics import log_loss, top_k_accuracy_score, zero_one_loss
    logp,y = some()
    p = predictions(logp, y)
    assert np.isclose(p.error, zero_one_loss(y, p.predicted))
    for k in (1, 2, 5): assert np.isclose(1-p.top_error(k), top_k_accuracy_score(y, logp.numpy(), k=k))
    assert np.isclose(p.nll, log_loss(y, logp.double().exp().numpy()), rtol=1e-5)


@pytest.mark.parametrize('bins', [1, 5, 15, 40])
def test_calibration_equals_torchmetrics(bins):
    tm = pytest.importorskip('torchmetrics.functional.classification')
    for seed in range(3):
        logp,y = some(seed=seed, sharp=3)
        ref = tm.multiclass_calibration_error(logp.exp(), torch.from_numpy(y), num_classes=8, n_bins=bins, norm='l1').item()
        assert np.isclose(predictions(logp, y).ece(bins), ref, atol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=40)
def test_calibration_equals_the_loop(seed, bins):
    p = predictions(*some(80, 5, seed))
    total = 0.
    for b in range(bins):
        inside = [i for i,c in enumerate(p.confidence.astype(float)) if b/bins < c <= (b+1)/bins]
        if inside: total += abs(sum(float(p.confidence[i]) for i in inside)-sum(not p.wrong[i] for i in inside))
    assert np.isclose(p.ece(bins), total/p.n, atol=1e-9)


def test_calibration_of_known_cases():
    sure = Predictions(np.zeros(10, int), np.r_[np.zeros(7, int), np.ones(3, int)], np.zeros(10), np.full(10, 1., np.float32))
    assert np.isclose(sure.ece(), .3) and sure.reliability()['n'][-1] == 10
    fair = Predictions(np.zeros(10, int), np.r_[np.zeros(7, int), np.ones(3, int)], np.zeros(10), np.full(10, .7))
    assert np.isclose(fair.ece(), 0)


def test_per_class_equals_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support
    logp,y = some(c=6)
    p,m = predictions(logp, y),LabelMap.identity(list('abcdef'))
    precision,recall,_,n = precision_recall_fscore_support(y, p.predicted, labels=range(6))
    t = p.per_class(m)
    assert np.allclose(t.error, 1-recall) and np.allclose(t.false, 1-precision) and (t.n == n).all() and list(t.index) == list('abcdef')
    assert np.allclose([-p.log_p[y == k].mean() for k in range(6)], t.nll, rtol=1e-5)
    one = predictions(logp[:1], y[:1]).per_class(m)
    assert np.isnan(one.error).sum() == 5, 'a class without images has no error'


H = Hierarchy.from_paths({'poodle': ['animal','dog'], 'beagle': ['animal','dog'], 'tabby': ['animal','cat'], 'persian': ['animal','cat'], 'minnow': ['animal','fish']})


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 9))
@settings(max_examples=40)
def test_errors_over_classes_equal_scikit_learn(seed, n, c):
    import warnings
    from sklearn.metrics import balanced_accuracy_score
    p = predictions(*some(n, c, seed))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # classes that are predicted and have no images
        assert np.isclose(p.balanced_error, 1-balanced_accuracy_score(p.truth, p.predicted))
    assert np.isclose(p.worst_class_error, max(p.wrong[p.truth == k].mean() for k in set(p.truth)))
    assert np.isclose(p.balanced_error, p.per_class(LabelMap.identity([f'c{i}' for i in range(c)])).error.mean()) and p.summary()['balanced_error'] == p.balanced_error


def test_a_rare_class_counts_as_much_as_a_common_one():
    p = Predictions(np.array([0]*9+[0]), np.array([0]*9+[5]), np.zeros(10))
    assert (p.error, p.balanced_error, p.worst_class_error) == (.1, .5, 1.)


def test_errors_of_no_images_are_not_known():
    none = Predictions(*np.zeros((2, 0), np.int32), np.zeros(0, np.float32))
    assert np.isnan([none.error, none.balanced_error, none.worst_class_error, none.nll]).all()


def test_superclasses_split_the_error():
    leaf,kind = H.level(0),H.level(1)
    logp,y = some(400, 5)
    p = predictions(logp, y)
    t = p.per_superclass(leaf, kind)
    for k,name in enumerate(kind.vocab):
        rows = kind.codes[y] == k
        stays = kind.codes[p.predicted[rows]] == k
        assert np.isclose(t.error[name], p.wrong[rows].mean()) and np.isclose(t.across[name], (~stays).mean()) and np.isclose(t.within[name], (p.wrong[rows] & stays).mean())
    assert t.within['fish'] == 0, 'a superclass of one class has no mistake inside'
    with pytest.raises(ValueError, match='refine'): p.per_superclass(kind, leaf)


def test_severity_is_that_of_labels_metrics():
    from granularity_nb.labels.metrics import hierarchical_metrics
    p = predictions(*some(200, 5))
    assert p.hierarchical(H, H.level(0)) == hierarchical_metrics(H, p.predicted, p.truth)
    kinds = predictions(*some(200, 3))
    m = kinds.hierarchical(H, H.level(1))
    assert m['severity'] == 1 and np.isclose(m['error'], kinds.error) # below one root, every mistake is one step


def test_hierarchy_above_classes():
    assert class_hierarchy(H, H.level(0)) is H
    up = class_hierarchy(H, H.level(1))
    assert up.leaves == ('cat','dog','fish') and up.roots == ('animal',)
    uneven = Hierarchy.from_paths({'a': ['r','x','y'], 'b': ['r','x','y'], 'c': ['r','x'], 'd': ['r']})
    for m in (uneven.level(1), uneven.depth(1), uneven.depth(2), uneven.cut(2)): assert class_hierarchy(uneven, m).leaves == m.vocab
    with pytest.raises(TrainingError, match="'odd'.*no node"): class_hierarchy(H, LabelMap(H.leaves, ['odd','x'], [0,1,0,1,0], name='parity'))


def test_stored_predictions_come_back(tmp_path):
    p = predictions(*some())
    old = Predictions(p.predicted, p.truth, p.log_p)
    save_predictions(tmp_path/'p.npz', {'test': p, 'test:shift:3': old})
    again = load_predictions(tmp_path/'p.npz')
    assert list(again) == ['test', 'test:shift:3'] and again['test'].summary() == p.summary()
    assert again['test:shift:3'].confidence is None and again['test:shift:3'].error == p.error
    with pytest.raises(TrainingError, match='confidence'): again['test:shift:3'].ece()
    with pytest.raises(TrainingError, match='rank'): again['test:shift:3'].top_error()


def test_what_a_study_stores_can_be_read(tmp_path):
    "The names of the arrays in a study's predictions.npz."
    p = predictions(*some())
    np.savez_compressed(tmp_path/'p.npz', **{f'test/{k}': getattr(p, k) for k in ('predicted','truth','log_p')})
    assert load_predictions(tmp_path/'p.npz')['test'].error == p.error


def test_bad_outputs_are_named():
    logp,y = some(10, 4)
    with pytest.raises(TrainingError, match='NaN for 1 of 10'): predictions(torch.where(torch.arange(10)[:,None] == 3, float('nan'), logp), y)
    with pytest.raises(TrainingError, match='10 images, but 9'): predictions(logp, y[:9])
    with pytest.raises(TrainingError, match='4 classes'): predictions(logp, np.full(10, 4))
