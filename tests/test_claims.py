"What the theory section claims, on a few seeds with generous margins; faults; and the command as a user runs it."
import json, math, os, subprocess, sys
from functools import partial
import numpy as np, pytest, torch
from granularity_nb.cli import main
from granularity_nb.theory import claims
from granularity_nb.theory.claims import (ClaimTable, as_text, budget_over_k, by_samples, constants, crossing, finite_set, fixed_budget, foretold, full, granularities, groups, lucky_net,
                                          measure, mechanism, over_d, phase_share, phase_wrong, ratios, samples_needed, save, separation, slope, stats, stored, sweeps, theorem,
                                          trajectories, transfers, what_breaks, _candidates, _t95)
from granularity_nb.theory.multiview import MultiView, TheoryError
from granularity_nb.theory.network import paper_bias
from granularity_nb.theory.training import Labels, pretrain_net

SEEDS = range(3)


@pytest.fixture(scope='module', autouse=True)
def trained_once():
    "Several claims are about the same networks: those that the sweeps ask for with the same arguments are trained once. No sweep changes a run."
    nets = {}
    def once(*args, **kw):
        key = repr((args, kw))
        if key not in nets: nets[key] = pretrain_net(*args, **kw)
        return nets[key]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(claims, 'pretrain_net', once)
        yield nets


@pytest.fixture(scope='module')
def apart(): return separation(seeds=SEEDS, lr=.03, n=512)


def test_separation(apart):
    c,f = apart
    assert c['easy']<.01 and f['easy']<.01
    assert c['hard']>.6 and f['hard']<.03
    assert c['converged']==f['converged']==3 and math.isclose(c['floor'], (1-6/32)**32)


def test_training_repeats_itself(apart, trained_once):
    mv = MultiView()
    again = pretrain_net(mv, 'coarse', SEEDS, lr=.03)
    assert again is not trained_once[repr(((mv, 'coarse', SEEDS), dict(lr=.03)))]
    assert measure(again, 512, labels='coarse', k=mv.k) | dict(floor=mv.floor)==apart[0]


def test_training_longer_lowers_the_coarse_error_but_does_not_end_it():
    early,late = (pretrain_net(MultiView(), 'coarse', SEEDS, lr=.03, stop=o).error(True, 512) for o in (.1,.01))
    assert (late<early).all() and late.mean()>.5


def test_mechanism():
    rows = mechanism((2,4,8,16), seeds=SEEDS, lr=.03)
    for kind in ('learned','weights','patch'):
        s = slope(rows, kind)
        assert -1.35<s['slope']<-.7 and s['low']<s['slope']<s['high']
    up = mechanism((2,8), 'fine', seeds=SEEDS, lr=.03)
    assert up[0]['learned']>1.2 and up[1]['learned']>up[0]['learned']


def test_slope_of_a_power_law_is_its_exponent():
    k = np.array([2,4,8])
    rows = ClaimTable(dict(k=int(o), each=dict(learned=[3*o**-1.5, o**-1.4])) for o in k)
    assert slope(rows)['slope']==pytest.approx(-1.45)


@pytest.mark.parametrize('n', [5,10,30])
def test_t_quantile(n):
    from scipy.special import stdtrit # as scipy.stats.t.ppf, without its second of imports
    assert _t95(n)==pytest.approx(stdtrit(n-1, .975), rel=.003)


def test_error_is_foretold_by_the_ratio():
    for k in (2,16):
        run = pretrain_net(MultiView(k=k), 'coarse', SEEDS, lr=.03)
        assert abs(foretold(ratios(run, 'patch').numpy(), run.mv).mean()-run.error(True, 512).mean())<.15


def test_foretold_at_its_ends():
    mv = MultiView()
    assert foretold(1e9, mv)==pytest.approx(mv.floor) and foretold(0., mv)==pytest.approx(1)
    assert foretold(1., mv.but(s_dagger=0))==pytest.approx(mv.floor/2) # nothing on either side: a coin


def test_trajectories():
    rows = trajectories(seeds=(0,1), lr=.01, record=20, steps=60, n=64)
    last = {r['labels']: r for r in rows if r['step']==60}
    assert last['coarse']['common']>3*last['coarse']['fine'] and last['fine']['fine']>last['fine']['common']
    assert rows.where(labels='fine', step=60)[0]['samples']==60*64


def test_transfers():
    rows = {(r['labels'],r['transfer']): r['hard'] for r in transfers(MultiView(k=6), seeds=(0,), lr=.03, n=256, steps=40)}
    assert rows['coarse','probe, raw features']>.9 and rows['fine','probe, raw features']<.6
    assert rows['coarse','probe, standardised features']<rows['coarse','probe, raw features']
    assert rows['fine','read-out, max']<=rows['fine','read-out, logsumexp']<=rows['fine','read-out, sum']
    assert rows['fine','fine-tuned from zeros']>.5>rows['fine','fine-tuned from readout']


def test_what_breaks():
    rows = what_breaks(seeds=(0,1), shares=(0.,.1), ms=(2,), decays=(), lr=.1, max_steps=60, n=256)
    hard = {(r['change'],r['labels']): r['hard'] for r in rows}
    assert hard['no wrong feature, s† = 0','coarse']<.3<.5<hard['as it is','coarse']
    assert hard['10% hard in pretraining','coarse']<.25
    assert hard['m = 2 neurons','fine']>.1>hard['as it is','fine']


def test_granularities():
    rows = {r['labels']: r for r in granularities(MultiView(k=4), (0,1), qs=(1,2,4), splits=(2,), pairs=(2,), n=256, m=16, max_steps=100)}
    names = list(rows)
    one,two,four,split,cross,ids = (rows[o]['hard'] for o in names)
    assert one>two>=four-.02 and split<.05
    assert rows[names[4]]['easy']==pytest.approx(.25, abs=.06) # half of the subclasses share a class with the other side
    assert ids==pytest.approx(.5, abs=.02)


def test_samples():
    rows = samples_needed((2,16), seeds=SEEDS, lrs=(.1,), n=256)
    assert rows[0]['median']<rows[1]['median'] and rows[1]['reached']==3
    assert samples_needed((4,), seeds=(0,), lrs=(1e-5,), samples=(32,64))[0]['median'] is None


@pytest.mark.parametrize('errors,median,reached', [([[1,1,1],[0,1,0]], 64, 2), ([[1,0,1],[1,0,1]], None, 1), ([[1,1,0],[0,0,0]], 64, 3)])
def test_a_seed_that_never_gets_there_counts_as_the_last(monkeypatch, errors, median, reached):
    "It neither drops out of the median, which would flatter, nor takes the others' away."
    left = iter(errors)
    monkeypatch.setattr(claims, 'by_samples', lambda *args, **kw: torch.tensor([next(left)]))
    got = samples_needed((4,), seeds=SEEDS, lrs=(.1,), samples=(32,64))[0]
    assert (got['median'], got['reached'], got['n'])==(median, reached, 3)


def test_more_subclasses_at_a_fixed_number_of_samples_are_harder():
    a,b = budget_over_k((2,16), (128,), SEEDS, (.1,), n=256)
    assert a['hard']<b['hard']


def test_labels_finer_than_the_truth_do_no_harm():
    rows = fixed_budget(MultiView(k=8), ((1,1),(8,1),(8,4)), (320,), SEEDS, (.1,), n=256)
    assert rows[0]['hard']>.6 and rows[2]['hard']<rows[1]['hard']+.05


def test_a_class_for_each_sample():
    rows = finite_set(size=64, seeds=(0,), parts=(0,None), epochs=20, n=256)
    assert rows[0]['classes']==2 and rows[1]['classes']==64 and rows[1]['hard']<.2<rows[0]['hard']


def test_phases():
    rows = phase_wrong((2,8), ((0,.5),(3,.5),(12,1.)), seeds=SEEDS, lr=.03, n=256)
    for k in (2,8):
        h = rows.where(k=k).column('hard')
        assert h[0]<h[1]<=h[2] and h[2]>.9
    h = phase_share((8,), (0.,.1), seeds=SEEDS, n=256).column('hard')
    assert h[1]<h[0]-.3


def test_constants():
    r = constants((128,))[0]
    assert r['b0_over_sigma0']==pytest.approx(-2*math.sqrt(math.log(128))) and r['decay']==pytest.approx(1/math.log(128)**5)


def test_candidates_are_the_neurons_that_all_would_have():
    g,t = np.random.default_rng(1),1.2
    q = .5*math.erfc(t/math.sqrt(2))
    w = torch.from_numpy(g.standard_normal((100000,5)))
    want = w[(w[:,:3]>t).any(1)]
    got = _candidates(g, 5, 3, t, q, len(want))
    assert (got[:,:3]>t).any(1).all()
    assert torch.allclose(got.mean(0), want.mean(0), atol=.03) and torch.allclose(got.std(0), want.std(0), atol=.03)


def test_lucky_net():
    mv = MultiView(k=2)
    net = lucky_net(mv, 2, lucky=3., seeds=(0,1,2,3))
    up = net.w[:,:,:mv.n_features]+net.b[...,None]>0 # fires on a patch that is the feature alone
    assert up.float().sum((1,2)).mean()==pytest.approx(3*2*mv.n_features, rel=.35)
    assert net.b.unique().item()==pytest.approx(paper_bias(1e-6, mv.d))


def test_theorem_constants_separate_too():
    c,f = theorem(mv=MultiView(k=4, s_dagger=6), seeds=(0,), lucky=1., n=256)
    assert c['hard']>.5>.2>f['hard'] and c['dense']==1


def test_over_d():
    c,f = over_d((64,), seeds=(0,1), n=256)
    assert c['hard']>f['hard']+.5


# -- tables

def test_rows():
    rows = ClaimTable([measure(pretrain_net(MultiView(k=2), 'coarse', (0,), lr=.03), 64, labels='coarse')])
    assert rows[0]['easy_sd'] is None and json.loads(json.dumps(rows, allow_nan=False))==rows
    assert rows._repr_markdown_().splitlines()[0].startswith('| labels |') and '±' not in as_text(rows)
    assert '.500 ± 0.100' in as_text(ClaimTable([dict(x=.5, x_sd=.1)]))
    assert stats(x=torch.tensor([1.,math.inf]))==dict(x=None, x_sd=None)
    assert ClaimTable()._repr_markdown_()=='(no rows)'


# -- faults

@pytest.mark.parametrize('call,constraint', [
    (lambda: groups(MultiView(), 9), '1 ≤ q ≤ k = 8'), (lambda: groups(MultiView(), 0), '1 ≤ q'), (lambda: crossing(MultiView(), 9), 'pairs'), (lambda: lucky_net(MultiView(), 2, 0.), 'lucky > 0'),
    (lambda: by_samples(MultiView(), 'fine', [8]), 'one batch'), (lambda: stored('coarse', 'no-such-folder'), 'granularity theory --full'), (lambda: full('x', ['zz']), "unknown sweep 'zz'"),
    (lambda: mechanism((80,)), 'd ≥ 2 + 2k'), (lambda: phase_share((4,), (1.5,)), 'hard_fraction'), (lambda: phase_wrong((2,), ((40,.5),)), 's† + 1'),
    (lambda: ratios(pretrain_net(MultiView(k=2), Labels(range(4), 2), (0,), max_steps=1)), 'not split'), (lambda: ratios(pretrain_net(MultiView(k=2), 'coarse', (0,), max_steps=1), 'sum'), "'learned'")])
def test_refused(call, constraint):
    with pytest.raises(TheoryError) as e: call()
    assert constraint in str(e.value) and '\n' not in str(e.value)


# -- stored sweeps and the command

def test_full_resumes(tmp_path, monkeypatch):
    calls = []
    def one(x):
        calls.append(x)
        return ClaimTable([dict(x=x, seeds=3)])
    monkeypatch.setattr(claims, 'sweeps', lambda: dict(a=(one, dict(x=1)), b=(one, dict(x=2))))
    full(tmp_path, ['b'], command='test', log=lambda o: None)
    (tmp_path/'c.json').write_text('other')
    full(tmp_path, command='test', log=lambda o: None)
    assert calls==[2,1] and (tmp_path/'c.json').read_text()=='other'
    got = stored('a', tmp_path)
    assert got==[dict(x=1, seeds=3)] and got.made['call']=='one(x=1)' and got.made['command']=='test' and got.made['versions']['torch']


def test_sweeps_stay_together_wherever_the_working_directory_goes(tmp_path, monkeypatch):
    for o in ('here','there'): (tmp_path/o).mkdir()
    monkeypatch.chdir(tmp_path/'here')
    def one():
        os.chdir(tmp_path/'there')
        return ClaimTable([dict(seeds=1)])
    monkeypatch.setattr(claims, 'sweeps', lambda: dict(a=(one, {}), b=(one, {})))
    assert full('out', log=lambda o: None) == [tmp_path/'here'/'out'/f'{o}.json' for o in 'ab']
    assert len(list((tmp_path/'here'/'out').iterdir())) == 2 and not list((tmp_path/'there').iterdir())


def test_files_of_others_are_neither_taken_for_results_nor_written_over(tmp_path, monkeypatch, capsys):
    "Before anything is computed."
    monkeypatch.setattr(claims, 'sweeps', lambda: dict(a=(lambda: pytest.fail('computed'), {}), b=(lambda: pytest.fail('computed'), {})))
    monkeypatch.setattr(claims, 'separation', lambda *args, **kw: pytest.fail('computed'))
    for i,(name,text,args) in enumerate([('b.json', '{"made": 1}', ['--full']), ('b.json', 'mine', ['--full','--only','b']), ('separation.json', '[1]', []), ('separation.md', 'mine', []), ('separation.png', '', [])]):
        out = tmp_path/str(i)
        out.mkdir()
        (out/name).write_text(text)
        assert main(['theory', *args, '--out', str(out)]) == 2
        err = capsys.readouterr().err
        assert str(out/name) in err and 'no result of this command' in err and err.count('\n') == 1
        assert (out/name).read_text() == text and len(list(out.iterdir())) == 1


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError): save(ClaimTable([dict(x=math.nan)]), tmp_path/'a.json', 'f()', 1.)
    assert not list(tmp_path.iterdir())


def test_every_stored_sweep_is_one_that_runs():
    from inspect import signature
    for name,(f,kwargs) in sweeps().items():
        params = signature(f).parameters
        assert all(k in params or any(p.kind==p.VAR_KEYWORD for p in params.values()) for k in kwargs), name


def test_command(tmp_path, capsys):
    assert main(['theory', '--k', '2', '--s-dagger', '6', '--seeds', '0,1', '--lr', '.03', '--out', str(tmp_path/'a')])==0
    out = capsys.readouterr().out
    assert 'coarse' in out and 'hard' in out and '±' in out
    assert sorted(o.name for o in (tmp_path/'a').iterdir())==['separation.json','separation.md','separation.png']
    got = json.loads((tmp_path/'a'/'separation.json').read_text())
    assert [r['labels'] for r in got['rows']]==['coarse','fine'] and got['rows'][0]['k']==2 and 's_dagger=6' in got['made']['call']


@pytest.mark.parametrize('args,message', [(['--k','80'],'need d ≥ 2 + 2k'), (['--k','0'],'need k ≥ 1'), (['--hard-fraction','2'],'need 0 ≤ hard_fraction ≤ 1'), (['--s-star','20'],'need P ≥ 2·s*'),
    (['--s-dagger','-1'],'need s† ≥ 0'), (['--lr','0'],'need lr > 0'), (['--k','x'],'is not a whole number'), (['--seeds','-1'],'seeds'), (['--neurons','0'],'whole number from 1'),
    (['--only','coarse'],'--full'), (['--full','--only','zz'],"unknown sweep 'zz'")])
def test_command_refuses(args, message, tmp_path, capsys):
    try: code = main(['theory', '--out', str(tmp_path/'a'), *args])
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err.strip()
    assert code==2 and message in err and len(err.splitlines())==1
    assert not (tmp_path/'a').exists()


def test_command_says_where_it_cannot_write(tmp_path, capsys):
    (tmp_path/'file').write_text('')
    assert main(['theory', '--k', '2', '--seeds', '0', '--lr', '.03', '--out', str(tmp_path/'file'/'sub')])==2
    assert len(capsys.readouterr().err.strip().splitlines())==1


def test_each_seed_counts_once(tmp_path, capsys):
    assert main(['theory', '--k', '2', '--seeds', '0,1,0', '--out', str(tmp_path)]) and 'need each seed once, got 0 twice' in capsys.readouterr().err
    mv = MultiView(d=16, k=1, P=8, s_star=4, s_dagger=3)
    for f in (partial(finite_set, epochs=1), partial(theorem, 16, max_steps=1), partial(separation, max_steps=1)):
        with pytest.raises(TheoryError, match='each seed once'): f(mv=mv, seeds=(0,0))


def test_a_heading_names_what_is_below_it(tmp_path, capsys, monkeypatch):
    "One seed has no standard deviation; and what a killed command left is removed by the next."
    monkeypatch.setattr(claims, 'pretrain_net', partial(pretrain_net, max_steps=3))
    subprocess.run([sys.executable, '-c', "import os, sys\nfrom granularity_nb.files import whole_file\nwith whole_file(sys.argv[1]): os._exit(9)", tmp_path/'separation.png'])
    assert [o.name[:5] for o in tmp_path.iterdir()] == ['.tmp-']
    for seeds,said in (('3', 'superclass, of the one seed 3'), ('3,4', 'superclass, mean ± standard deviation over 2 seeds')):
        assert main(['theory', '--k', '2', '--seeds', seeds, '--out', str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert said in out and ('±' in out) == (seeds != '3')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['separation.json','separation.md','separation.png']


def test_a_loss_that_stays_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(claims, 'pretrain_net', partial(pretrain_net, max_steps=3))
    assert main(['theory', '--k', '2', '--seeds', '0', '--out', str(tmp_path)])==0
    out = capsys.readouterr().out
    assert 'coarse labels: 1 of 1 seeds did not bring the loss down' in out and 'fine labels: 1 of 1' in out


def test_help_needs_no_torch():
    code = "import sys; from granularity_nb.cli import main\ntry: main(['theory','--help'])\nexcept SystemExit: pass\nassert not {'torch','numpy','matplotlib'} & set(sys.modules)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode==0 and '--s-dagger' in r.stdout, r.stderr
