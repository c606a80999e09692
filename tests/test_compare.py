"Paired statistics against SciPy, exact enumeration and simulation; hardness and its cross-fitting; batch normalisation's statistics."
import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from granularity_nb.training.compare import bootstrap_interval, compare, crossed_interval, crossed_weights, mcnemar, mean_interval, paired_p, pairing, simultaneous, standard_error, welch, wilson_interval
from granularity_nb.training.evaluate import Predictions
from granularity_nb.training.hardness import bins_of, cross_fitted, gain_by_hardness, hardness
from granularity_nb.training.recipe import TrainingError


def of(wrong, p=None):
    "Predictions that are wrong where told, with a given probability of the truth."
    wrong = np.asarray(wrong, bool)
    p = np.where(wrong, .2, .8) if p is None else np.asarray(p)
    return Predictions(wrong.astype(np.int32), np.zeros(len(wrong), np.int32), np.log(p))


@given(st.integers(0, 25), st.integers(0, 25))
@settings(max_examples=60)
def test_mcnemar_equals_the_sum_of_binomial_terms(a, b):
    n = a+b
    r = mcnemar(of([1]*a+[0]*b+[1]*3+[0]*4), of([0]*a+[1]*b+[1]*3+[0]*4))
    tail = sum(math.comb(n, k) for k in range(min(a, b)+1))/2**n
    assert (r['only_a'], r['only_b']) == (a, b) and math.isclose(r['p'], min(1., 2*tail), rel_tol=1e-9)


def test_mcnemar_keeps_its_level():
    "Of test sets on which two models are equally good, at most 5 % give p < 5 %."
    rng,below = np.random.default_rng(0),0
    for _ in range(400):
        u = rng.random(200)
        below += mcnemar(of(u < .15), of((u < .05) | (u > .9)))['p'] < .05
    assert below/400 <= .07


def test_other_images_are_refused():
    a = of([0, 1, 0])
    with pytest.raises(TrainingError, match='different images'): mcnemar(a, of([0, 1]))
    with pytest.raises(TrainingError, match='different images'): compare(a, Predictions(a.predicted, np.array([0, 1, 0], np.int32), a.log_p))


def test_t_interval_and_test_equal_scipy():
    from scipy import stats
    a,b = np.random.default_rng(0).normal(size=(2, 7))
    m,half = mean_interval(a-b)
    ref = stats.ttest_rel(a, b).confidence_interval(.95)
    assert np.allclose((m-half, m+half), ref) and np.isclose(paired_p(a-b), stats.ttest_rel(a, b).pvalue)
    assert math.isnan(mean_interval([.1])[1]) and math.isnan(paired_p([.1])) and math.isnan(paired_p([.1, .1, .1]))


@given(st.lists(st.tuples(st.floats(-1, 1), st.one_of(st.floats(.01, 1), st.just(float('nan'))), st.floats(1, 30)), min_size=1, max_size=12), st.floats(.5, .99))
def test_family_intervals_are_students_and_agree_with_their_p_values(family, level):
    "Bonferroni, by its definition: m times the p-value, the t-quantile at 1 − α/2m; shown by one exactly if by the other."
    from scipy import stats
    means,errors,dfs = map(np.array, zip(*family))
    half,p,q = simultaneous(means, errors, dfs, level)
    m = sum(o == o for o in errors)
    for d,se,df,h,one,of_all in zip(means, errors, dfs, half, p, q):
        if se != se: assert math.isnan(h) and math.isnan(one) and math.isnan(of_all); continue
        assert math.isclose(one, 2*stats.t.sf(abs(d/se), df), rel_tol=1e-9) and math.isclose(of_all, min(1, m*one))
        assert math.isclose(h, stats.t.ppf(1-(1-level)/(2*m), df)*se, rel_tol=1e-9)
        if abs(of_all-(1-level)) > 1e-9: assert (of_all < 1-level) == (abs(d) > h)


def test_family_intervals_hold_together():
    "In 95 % of studies all of them cover the truth, also when arms share a reference; one by one they would not."
    rng,truth,all_held,each_held = np.random.default_rng(0),np.linspace(-.05, .05, 15),0,0
    for _ in range(400):
        ref = rng.normal(.2, .02, 5)
        d = truth[:,None]+rng.normal(.2, .01, (15, 5))-ref
        means,errors,dfs = map(np.array, zip(*map(standard_error, d)))
        half,*_ = simultaneous(means, errors, dfs)
        all_held += (abs(means-truth) <= half).all()
        each_held += all(abs(m-w) <= mean_interval(o)[1] for m,w,o in zip(means, truth, d))
    assert all_held/400 >= .93 and each_held/400 < .9


def test_welch_and_pairing_equal_scipy():
    from scipy import stats
    rng = np.random.default_rng(1)
    a,b = rng.normal(.2, .01, 5),rng.normal(.22, .03, 7)
    ref = stats.ttest_ind(a, b, equal_var=False)
    m,se,df = welch(a, b)
    assert math.isclose(m, a.mean()-b.mean()) and math.isclose(m/se, ref.statistic) and math.isclose(2*stats.t.sf(abs(m/se), df), ref.pvalue)
    assert math.isnan(welch([.1, .1], b)[1]) and math.isnan(welch([.1], b)[1]), 'the spread of one arm is not known, so is not zero'
    r = pairing(a, b[:5])
    assert math.isclose(r['correlation'], stats.pearsonr(a, b[:5])[0]) and math.isclose(r['ratio'], np.var(a-b[:5])/(np.var(a)+np.var(b[:5])))
    assert all(math.isnan(o) for x in ([.1], [.1, .2], [.1, .1, .1]) for o in pairing(x, x).values())


@given(st.integers(1, 300), st.data())
@settings(max_examples=40)
def test_wilson_interval_equals_scipy(n, data):
    from scipy.stats import binomtest
    wrong = data.draw(st.integers(0, n))
    low,high = wilson_interval(wrong/n, n)
    assert np.allclose((low, high), tuple(binomtest(wrong, n).proportion_ci(method='wilson')), atol=1e-12) and 0 <= low <= wrong/n <= high <= 1 and high-low > .005


def test_a_spread_that_is_not_known_is_not_zero():
    "Equal values, and values equal but for rounding."
    for x in ([.63, .63], [.1+.2, .3, .3], [1e-17, 0., -1e-17], [.5]):
        assert math.isnan(mean_interval(x)[1]) and math.isnan(paired_p(x)) and math.isnan(standard_error(x)[1])
    for x in (np.zeros(5), np.full(50, .1)+np.random.default_rng(0).choice([0, 1e-17, 2e-17], 50), [.3, .1+.2, .3]): assert np.isnan(bootstrap_interval(x)).all()
    assert np.isnan(crossed_interval(np.zeros((3, 20)))).all() and np.isnan(crossed_interval(np.random.default_rng(0).random((1, 20)))).all()
    r = compare(of([0]*14), of([0]*14))
    assert r['low'] == -r['high'] and math.isclose(r['high'], 1-.025**(1/14)) # Clopper and Pearson's bound for 0 of 14
    r = compare(of([0]*14), of([1]*14))
    assert r['high'] == 1 and r['low'] == pytest.approx(.025**(1/14))


def test_bootstrap_interval_works_with_every_scipy_that_is_allowed(monkeypatch):
    "Its argument for random numbers was renamed in SciPy 1.15."
    import scipy.stats
    from inspect import signature
    new,x = scipy.stats.bootstrap,np.arange(9.)
    name = next(o for o in ('rng','random_state') if o in signature(new).parameters)
    def before(data, statistic, *, n_resamples=9999, batch=None, confidence_level=.95, random_state=None): return new(data, statistic, n_resamples=n_resamples, batch=batch, confidence_level=confidence_level, **{name: random_state})
    want = bootstrap_interval(x)
    monkeypatch.setattr(scipy.stats, 'bootstrap', before)
    assert bootstrap_interval(x) == want


def test_bootstrap_interval_agrees_with_the_normal_one():
    x = np.random.default_rng(0).choice([-1, 0, 1], 2000, p=[.08, .86, .06])
    low,high = bootstrap_interval(x)
    half = 1.96*x.std()/np.sqrt(len(x))
    assert abs(low-(x.mean()-half)) < .15*half and abs(high-(x.mean()+half)) < .15*half
    assert bootstrap_interval(x) == (low, high)
    r = compare(of(x > 0), of(x < 0)) # b − a is −x
    assert np.isclose(r['difference'], -x.mean()) and abs(r['low']+high) < .1*half and r['low'] < r['difference'] < r['high']


def test_crossed_interval_covers_both_kinds_of_chance():
    rng = np.random.default_rng(0)
    seeds,images = rng.normal(0, 1, (12, 1)),rng.normal(0, 1, (1, 300))
    width = lambda x: np.subtract(*crossed_interval(x)[::-1])/3.92
    ones = np.ones((12, 300))
    assert np.isclose(width(ones*seeds), seeds.std()/np.sqrt(12), rtol=.1)
    assert np.isclose(width(ones*images), images.std()/np.sqrt(300), rtol=.1)
    s,i = crossed_weights(12, 300, 50)
    assert (s.sum(1) == 12).all() and (i.sum(1) == 300).all()


def runs(n_seeds, n=600, shift=0., start=0, seed=0):
    "Simulated runs on images of one difficulty; `shift` lowers the evidence for the truth."
    difficulty = np.random.default_rng(seed).beta(.5, 1.5, n).clip(.01, .99)
    out = {}
    for s in range(n_seeds):
        logit = np.log(1/difficulty-1)-shift+1.5*np.random.default_rng(1000+start+s).standard_normal(n)
        p = 1/(1+np.exp(-logit))
        out[s] = of(p < .5, p)
    return out


def test_hardness_is_the_mean_wrong_probability():
    ps = runs(4)
    loop = [sum(1-math.exp(p.log_p[i]) for p in ps.values())/4 for i in range(600)]
    assert np.allclose(hardness(ps.values()), loop)
    with pytest.raises(TrainingError, match='at least three'): hardness([ps[0], ps[1]])
    with pytest.raises(TrainingError, match='different images'): hardness([ps[0], ps[1], of([0, 1])])


def test_the_compared_run_never_defines_hardness():
    ps = runs(5)
    h = cross_fitted(ps)
    for s in ps:
        changed = ps | {s: of(~ps[s].wrong)}
        assert np.array_equal(cross_fitted(changed)[s], h[s])
        assert all(not np.array_equal(cross_fitted(changed)[t], h[t]) for t in ps if t != s)
    with pytest.raises(TrainingError, match='four'): cross_fitted({s: ps[s] for s in range(3)})


@given(st.integers(1, 200), st.integers(1, 12))
def test_bins_are_quantiles(n, bins):
    h = np.round(np.random.default_rng(n).random(n), 1) # many ties
    b = bins_of(h, bins)
    size = np.bincount(b, minlength=bins)
    assert size.max()-size.min() <= 1 and all(h[b == k].max() <= h[b == j].min() for k in range(bins) for j in range(k+1, bins) if size[k] and size[j])


def test_gain_by_hardness_equals_the_loop_and_adds_up():
    direct,other = runs(5),runs(4, shift=-1., start=50)
    t = gain_by_hardness(direct, other, bins=6, n_resamples=200)
    h = cross_fitted(direct)
    for k in range(6):
        d = [float(direct[s].wrong[i])-float(other[s].wrong[i]) for s in range(4) for i in range(600) if bins_of(h[s], 6)[i] == k]
        assert np.isclose(t.gain[k+1], np.mean(d)) and np.isnan(t.low[k+1]) == np.isnan(t.high[k+1]) == (len(set(d)) == 1), 'an interval exactly where something varies'
    assert np.isclose(t.gain.mean(), np.mean([direct[s].error-other[s].error for s in range(4)]))
    assert not ((t.low > t.gain) | (t.gain > t.high)).any() and t.low.notna().sum() >= 4 and (np.diff(t.hardness) > 0).all()
    assert t.equals(gain_by_hardness(direct, other, bins=6, n_resamples=200))
    with pytest.raises(TrainingError, match='no seed in common'): gain_by_hardness(direct, {9: other[0]})


def test_no_gain_is_found_where_there_is_none():
    "Runs made in the same way: intervals of nearly all deciles hold zero, over many simulated studies; without cross-fitting the hardest would not."
    fair = naive = 0
    for k in range(8):
        direct,other = runs(5, start=100*k, seed=k),runs(5, start=100*k+50, seed=k)
        t = gain_by_hardness(direct, other, n_resamples=300)
        fair += (~((t.low > 0) | (t.high < 0))).sum()
        b = bins_of(hardness(direct.values()))
        naive += np.mean([direct[s].wrong[b >= 8].mean()-other[s].wrong[b >= 8].mean() for s in range(5)])/8
    assert fair >= .88*80 and naive > .03


def test_hardness_by_both_families_favours_neither():
    "Equally good families that find different images hard: each wins on the other's hard images, and nobody on those that both define."
    direct,rival = runs(5),{s: of(p.wrong[::-1], np.exp(p.log_p[::-1])) for s,p in runs(5, start=70).items()}
    last = {k: gain_by_hardness(direct, rival, j, bins=5, n_resamples=100).gain[5] for k,j in (('direct', None), ('rival', [rival]), ('both', [direct, rival]))}
    assert last['direct'] > .1 and last['rival'] < -.1 and abs(last['both']) < .06
    h = cross_fitted(direct, rival)
    assert np.allclose(h[2], hardness([p for f in (direct, rival) for s,p in f.items() if s != 2]))
    with pytest.raises(TrainingError, match='no seed 4'): gain_by_hardness(direct, rival, [{s: p for s,p in direct.items() if s != 4}])


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))


def test_adapted_batchnorm_remembers_these_images_and_nothing_else_changes():
    from granularity_nb.training.shift import adapt_batchnorm
    m,x = net().eval(),torch.randn(40, 1, 9, 9)*3+5
    before = {k: v.clone() for k,v in m.state_dict().items()}
    a = adapt_batchnorm(m, [(x[:20],), (x[20:],)])
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items()) and not a.training
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), a.parameters()))
    z = m[0](x)
    assert torch.allclose(a[1].running_mean, z.mean((0,2,3)), atol=1e-4)
    out = adapt_batchnorm(m, [(x,)])(x)
    assert out.mean((0,2,3)).abs().max() < 1e-3 and (out.std((0,2,3))-1).abs().max() < 1e-2
    with pytest.raises(TrainingError, match='no batch normalisation'): adapt_batchnorm(torch.nn.Linear(2, 2), [])


def test_batchnorm_shift_equals_numpy():
    from granularity_nb.training.shift import batchnorm_shift
    m,x = net().eval(),torch.randn(30, 1, 9, 9)*2+1
    m[1].running_mean.uniform_(); m[1].running_var.uniform_(.5, 2); m[4].running_var.uniform_(.5, 2)
    t = batchnorm_shift(m, [(x[:7],), (x[7:],)])
    with torch.no_grad():
        for name,z,l in (('1', m[0](x), m[1]), ('4', m[:4](x), m[4])):
            z,sd = z.double().numpy(),np.sqrt(l.running_var.double().numpy()+l.eps)
            shift = (z.mean((0,2,3))-l.running_mean.double().numpy())/sd
            assert np.isclose(t['mean'][name], np.sqrt((shift**2).mean()), rtol=1e-5)
            assert np.isclose(t['spread'][name], np.exp(np.log(np.sqrt(z.var((0,2,3))+l.eps)/sd).mean()), rtol=1e-5)
    assert not any(l._forward_pre_hooks for l in m)


def test_evaluate_shift_is_evaluate_on_corrupted_splits():
    from granularity_nb.data.source import Source, Split
    from granularity_nb.labels.hierarchy import Hierarchy
    from granularity_nb.training.evaluate import evaluate
    from granularity_nb.training.shift import evaluate_shift
    h,rng = Hierarchy.from_paths({'a': ['x'], 'b': ['y']}),np.random.default_rng(0)
    s = Source('few', h, {k: Split(rng.integers(0, 256, (40, 12, 12), dtype=np.uint8), rng.integers(0, 2, 40)) for k in ('train','test')}, h.level(1))
    torch.manual_seed(0)
    m = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
    got = evaluate_shift(m, s, s.target, names=['shift','contrast'], severities=[2], device='cpu')
    assert list(got) == [('clean', 0), ('shift', 2), ('contrast', 2)]
    want = evaluate(m, s.corrupted(names=['shift'], severities=[2]), s.target, 'test:shift:2', device='cpu')
    assert all(np.array_equal(a, b) for a,b in zip(vars(got['shift', 2]).values(), vars(want).values()))
