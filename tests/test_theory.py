"The theory's engine: the model's law, the closed-form gradient, and that what the fast engine skips changes nothing."
import math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from granularity_nb.theory.multiview import MultiView, NOISE, STRONG, Stream, TheoryError
from granularity_nb.theory.network import PatchNet, new_net, paper_bias, paper_decay
from granularity_nb.theory.training import (Labels, coarse, net_error, expected_activations, fine, finetune, probe_net, pretrain_net, readout)

SMALL = MultiView(d=32, P=16, k=2, s_star=3, s_dagger=2)
QUICK = dict(seeds=(0,1), m=8, batch=16, max_steps=12, stop=1e-9, decay=.3, dtype=torch.float64) # at so small a d, biases must fall faster to be certified

# -- the distribution

@pytest.mark.parametrize('wrong,constraint', [(dict(k=0), 'k ≥ 1'), (dict(d=17), 'd ≥ 2 + 2k'), (dict(P=4), 'P ≥ s*'), (dict(P=11), 'P ≥ 2·s*'),
    (dict(s_star=0), 's* > 0'), (dict(s_dagger=26), 'P ≥ s* + s† + 1'), (dict(s_dagger=-1), 's† ≥ 0'), (dict(sigma=-1), 'σ_ζ ≥ 0'),
    (dict(sigma_star=float('nan')), 'σ_ζ* ≥ 0'), (dict(iota=1.), 'ι < 1'), (dict(alpha_dagger=(.6,.4)), 'α†'), (dict(hard_fraction=1.1), 'hard_fraction'), (dict(P=3.5), 'whole number')])
def test_refused(wrong, constraint):
    with pytest.raises(TheoryError, match='need ') as e: MultiView(**wrong)
    assert constraint in str(e.value)

def test_tightest_allowed(): MultiView(d=4, k=1, P=8, s_star=4, s_dagger=3).sample(3, hard=True)

@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 5), st.integers(0, 2**20), st.booleans())
def test_contents(k, s_dagger, s_star, seed, hard):
    mv = MultiView(d=2+2*k, P=16, k=k, s_star=s_star, s_dagger=s_dagger)
    s = mv.contents(40, Stream(seed).content, hard)
    y,c = s.superclass[:,None],2+s.subclass[:,None]
    assert (s.superclass==s.subclass//k).all() and (s.hard==hard).all()
    common,own,wrong,strong = (s.feature==o for o in (y, c, 1-y, STRONG))
    assert (common|own|wrong|strong|(s.feature==NOISE)).all()
    if hard: assert not common.any() and (wrong.sum(1)==s_dagger).all() and (strong.sum(1)==1).all()
    else: assert not wrong.any() and not strong.any()
    a = s.scale[common|own].double()**2
    assert ((a>=.8-1e-5)&(a<=1.2+1e-5)).all() and (s.scale[s.feature<0]==0).all()
    assert ((s.scale[wrong]>=.4)&(s.scale[wrong]<=.6)).all()

def test_counts_follow_the_law():
    mv = MultiView()
    s,h = (mv.contents(8000, Stream(0).content, o) for o in (False,True))
    for got in (s.feature==s.superclass[:,None]),(s.feature==2+s.subclass[:,None]):
        assert abs(got.double().sum(1).mean()-mv.s_star)<5*math.sqrt(mv.s_star/8000)
    none = ((h.feature==2+h.subclass[:,None]).sum(1)==0).double().mean()
    assert abs(none-mv.floor)<5*math.sqrt(mv.floor/8000)
    mixed = mv.but(hard_fraction=.25).contents(8000, Stream(0).content)
    assert abs(mixed.hard.double().mean()-.25)<.03

def test_patches():
    s = SMALL.sample(500, 0, hard=True, dtype=torch.float64)
    exact = s.X.clone()
    has = s.feature>=0
    exact[has] -= s.scale[has][:,None].double()*SMALL.dictionary(torch.float64)[s.feature[has]]
    assert abs(exact[s.feature!=STRONG].std()/SMALL.sigma-1)<.02 and abs(exact[s.feature==STRONG].std()/SMALL.sigma_star-1)<.03
    assert (MultiView(sigma=0.).sample(3).X.count_nonzero(-1)<=1).all()

def test_rotation_turns_everything():
    a,b = (o.sample(20, 3, hard=True, dtype=torch.float64) for o in (SMALL, SMALL.but(rotation=1)))
    V = SMALL.but(rotation=1).basis(torch.float64)
    assert torch.allclose(b.X @ V.T, a.X) and not torch.allclose(a.X, b.X)

def test_streams():
    first = lambda g: torch.rand(4, generator=g).tolist()
    gens = [getattr(Stream(s, u), o) for s in (0,1) for u in (0,1) for o in ('content','noise','background','init')]
    assert len({tuple(first(g)) for g in gens})==len(gens)
    with pytest.raises(TheoryError): Stream(-1)

# -- the network

@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.floats(1e-3, .5), st.booleans(), st.integers(0, 999))
def test_gradient_is_autograds(k, m, n, sigma0, with_head, seed):
    mv = SMALL.but(k=k)
    net = new_net(mv, 2*k, m, sigma0, seeds=(seed,seed+1), dtype=torch.float64)
    if with_head: net = PatchNet(net.w, net.b, 2*k, torch.randn(2, 2, 2*k*m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    s = mv.sample(n, seed, dtype=torch.float64)
    y = s.superclass if with_head else s.subclass
    w = net.w.clone().requires_grad_()
    h = torch.relu(torch.einsum('npd,shd->snph', s.X, w)+net.b[:,None,None]).sum(2)
    logits = h @ net.a.transpose(1,2)
    want = sum(F.cross_entropy(o, y) for o in logits)
    grad, = torch.autograd.grad(want, w)
    loss,got = net.gradient(s.X, y)
    assert torch.allclose(got, grad, atol=1e-12, rtol=0) and torch.allclose(loss.sum(), want, atol=1e-12) and torch.allclose(net(s.X), logits, atol=1e-12)

def test_responses_are_outputs_of_one_clean_patch():
    net = new_net(SMALL, 4, 6, .3, seeds=(0,1), dtype=torch.float64)
    X = SMALL.dictionary(torch.float64)[:,None]
    assert torch.allclose(net.responses(SMALL), net(X).transpose(1,2))
    assert (net.responses(SMALL, bias=False)>=net.responses(SMALL)).all()

def test_paper_constants(): assert paper_bias(2., 100)==pytest.approx(-4*math.sqrt(math.log(100))) and paper_decay(100)==pytest.approx(math.log(100)**-5)

# -- the engine

def test_certificate_counts():
    net = new_net(SMALL, 2, 8, seeds=(0,), dtype=torch.float64)
    net = PatchNet(net.w, net.b*.1, 2)
    z = torch.randn(40000, SMALL.d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))*SMALL.sigma
    got = ((z @ net.w[0].T+net.b[0])>0).sum().item()
    assert got>1000 and expected_activations(net.w, net.b, 40000, SMALL.sigma).item()==pytest.approx(got, rel=.05)

@pytest.mark.parametrize('labels', ['coarse','fine'])
@pytest.mark.parametrize('mv', [SMALL, SMALL.but(hard_fraction=.3), SMALL.but(rotation=2), SMALL.but(sigma=0.)])
def test_fast_is_dense(mv, labels):
    fast,dense = (pretrain_net(mv, labels, engine=e, **QUICK) for e in ('fast','dense'))
    assert (fast.dense_steps==0).all() and (dense.dense_steps==12).all() and fast.risk.max()<1e-3
    assert torch.allclose(fast.net.w, dense.net.w, atol=1e-13, rtol=0) and torch.allclose(fast.net.b, dense.net.b, atol=1e-13, rtol=0)
    assert fast.net.w.abs().max()>.01
    a,b = (o.error(n=100, engine=e) for o,e in ((fast,'fast'),(dense,'dense')))
    assert torch.equal(a, b)

def test_uncertified_steps_are_dense():
    "Without a bias schedule neurons come to fire on noise: skipping would be wrong, and is not done."
    kw = QUICK | dict(decay=0., max_steps=40, lr=.05)
    fast,dense,blind = (pretrain_net(SMALL, 'coarse', **kw, **o) for o in (dict(), dict(engine='dense'), dict(limit=math.inf)))
    assert (fast.dense_steps>0).all() and (blind.dense_steps==0).all()
    assert torch.allclose(fast.net.w, dense.net.w, atol=1e-12)
    assert (blind.net.w-dense.net.w).abs().max()>1e-6 and blind.risk.min()>1e-3

def test_seeds_do_not_depend_on_company():
    kw = QUICK | dict(seeds=(4,0,7), max_steps=200, stop=.2, lr=.05)
    alone,stacked = (pretrain_net(SMALL, 'coarse', **kw, together=n, record=5) for n in (1,3))
    assert torch.equal(alone.steps, stacked.steps) and len(set(alone.steps.tolist()))>1
    assert torch.allclose(alone.net.w, stacked.net.w, atol=1e-12)
    assert torch.allclose(alone.loss, stacked.loss, equal_nan=True) and torch.equal(alone.history['step'], stacked.history['step'])
    assert torch.allclose(alone.history['responses'], stacked.history['responses'], equal_nan=True)
    assert torch.allclose(pretrain_net(SMALL, 'coarse', **(kw | dict(seeds=(0,)))).net.w[0], stacked.net.w[1], atol=1e-12)

def test_separation():
    "The claim itself, small: coarse labels fail on hard samples, fine ones do not."
    c,f = (pretrain_net(MultiView(), o, seeds=range(2), lr=.1) for o in ('coarse','fine'))
    assert c.converged.all() and f.converged.all()
    assert c.error(False, 512).max()<.01 and f.error(False, 512).max()<.01
    assert c.error(n=512).min()>.5 and f.error(n=512).max()<.03

# -- labels, read-out, transfer

def test_labels():
    assert coarse(SMALL).of==(0,0,1,1) and fine(SMALL).n_classes==4
    sub = torch.arange(4).repeat(50)
    split = Labels([0,0,1,1], split=3)
    y = split(sub, torch.Generator().manual_seed(0))
    assert split.n_classes==6 and (y//3==sub//2).all() and len(y.unique())==6
    assert Labels([0,1,0,1]).share(SMALL).tolist()==[[.5,.5]]*2
    for wrong in dict(of=[0,2]),dict(of=[0,0]),dict(of=[0,1], split=0):
        with pytest.raises(TheoryError): Labels(**wrong)

def test_readout():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    share = fine(SMALL).share(SMALL)
    assert torch.equal(readout(x, share), torch.stack([x[:,:2].amax(1), x[:,2:].amax(1)], 1))
    assert torch.allclose(readout(x, share, 'logsumexp').softmax(-1), torch.stack([x.softmax(1)[:,:2].sum(1), x.softmax(1)[:,2:].sum(1)], 1))
    assert torch.allclose(readout(x, share, 'sum'), torch.stack([x[:,:2].sum(1), x[:,2:].sum(1)], 1))
    with pytest.raises(TheoryError): readout(x, share, 'mean')

def test_ties_are_half_an_error():
    net = PatchNet(torch.zeros(1, 4, SMALL.d), -torch.ones(1, 4), 2)
    assert net_error(net, SMALL, n=64).tolist()==[.5]

def test_transfer():
    run = pretrain_net(SMALL, 'fine', seeds=(0,1), m=8, lr=.05, stop=.5, decay=.1, max_steps=300)
    for std in False,True:
        assert probe_net(run, std, n=256).error(hard=False, n=256).max()<.1
    for head in 'zeros','readout':
        t = finetune(run, head, lr=.05, stop=.3, decay=.1, max_steps=150)
        assert t.net.head.shape==(2,2,32) and t.error(hard=False, n=256).max()<.1
    assert run.net.head is None # the pretrained network is as it was
    with pytest.raises(TheoryError): finetune(run, 'ones')

@pytest.mark.parametrize('wrong', [dict(labels='medium'), dict(labels=Labels([0,1])), dict(seeds=()), dict(seeds=(0,0)), dict(seeds=(0,.5)), dict(lr=0), dict(decay=-.1), dict(engine='sparse'), dict(batch=0)])
def test_pretrain_refuses(wrong):
    with pytest.raises(TheoryError): pretrain_net(SMALL, **wrong)
