"Several processes: the same batches, and on the CPU (gloo) the losses of one process."
import json, os, subprocess, sys
import numpy as np, pytest, torch
pytest.importorskip('accelerate')
from granularity_nb.data.block import dataloaders
from granularity_nb.data.source import Source, Split
from granularity_nb.labels.hierarchy import Hierarchy
from granularity_nb.training.distributed import RankDL
from granularity_nb.training.recipe import TrainingError


def make_source(n=256):
    h = Hierarchy.from_edges([('a','x'), ('b','x'), ('c','y'), ('d','y'), ('x','all'), ('y','all')])
    def split(n, seed):
        rng = np.random.default_rng(seed)
        leaf = rng.integers(0, 4, n)
        return Split((rng.integers(0, 60, (n, 8, 8))+leaf[:,None,None]*40).astype(np.uint8), leaf)
    return Source('shades', h, dict(train=split(n, 0), valid=split(64, 1), test=split(8, 2)), h.level(1), dict(leaf=h.level(0), pair=h.level(1)))


def loader(n, bs, augment='none', **kw):
    s = make_source(n)
    dl = dataloaders(s, s.level('leaf'), bs=bs, device='cpu', augment=augment, **kw).train
    dl.seed(3)
    return dl


@pytest.mark.parametrize('n,bs,world', [(64, 16, 2), (64, 16, 4), (60, 16, 2), (50, 8, 4), (33, 16, 2)])
def test_the_shares_make_the_batch(n, bs, world):
    for epoch in range(2):
        whole,parts = loader(n, bs), [RankDL.of(loader(n, bs), r, world) for r in range(world)]
        for dl in (whole, *parts): [list(dl) for _ in range(epoch)]
        whole = [(b[0], b[1]) for b in whole]
        shares = [[(b[0], b[1]) for b in p] for p in parts]
        assert all(len(p) == len(s) == len(whole) for p,s in zip(parts, shares))
        for i,(x,y) in enumerate(whole):
            xs,ys = (torch.cat([s[i][k] for s in shares]) for k in (0,1))
            assert torch.equal(xs[:len(x)], x) and torch.equal(ys[:len(y)], y) and len(ys)-len(y) < world
            assert len({len(s[i][1]) for s in shares}) == 1, 'processes must make the same number of images'


@pytest.mark.parametrize('n,world', [(35, 8), (3, 8), (1, 4), (2, 16), (17, 8), (18, 8), (34, 16)])
def test_no_image_is_lost_and_no_process_has_fewer_steps(n, world):
    rows = lambda dl: [dl.get_idxs()[i:i+dl.bs] for i in range(0, len(dl.get_idxs()), dl.bs)]
    s = make_source(n)
    dls = dataloaders(s, s.level('leaf'), bs=16, valid='train', device='cpu')
    for dl,kept in ((dls.valid, n), (dls.train, n-(n == 17))): # one image cannot be normalised by batch
        parts = [RankDL.of(dl, r, world) for r in range(world)]
        got = [[b[1].tolist() for b in p] for p in parts]
        assert len({len(p) for p in got}) == 1 and all(len(p) == len(q) == len(r) for p,q,r in zip(got, parts, [rows(o) for o in parts]))
        assert len({tuple(map(len, p)) for p in got}) == 1 and min(map(len, got[0])) > 0
        dl.shuffle = False
        assert len({o for p in parts for o in RankDL.of(dl, p.rank, world).get_idxs()}) == kept


@pytest.mark.parametrize('augment', ['crop:2+flip', 'rrc:0.3+flip', 'color:0.4', 'shift:2'])
@pytest.mark.parametrize('n,world', [(64, 4), (50, 8)])
def test_each_image_is_augmented_as_one_process_would(n, world, augment):
    def run(dl, seed=0):
        torch.manual_seed(seed) # RandomShift draws from torch's own generator, which `fit` seeds by process
        return [b[0] for _ in range(2) for b in dl]
    whole = run(loader(n, 16, augment))
    parts = [run(RankDL.of(loader(n, 16, augment), r, world), seed=r) for r in range(world)]
    again = [run(RankDL.of(loader(n, 16, augment), r, world), seed=r) for r in range(world)]
    assert all(torch.equal(a, b) for p,q in zip(parts, again) for a,b in zip(p, q, strict=True))
    if augment == 'shift:2': return
    for i,x in enumerate(whole): assert torch.allclose(torch.cat([p[i] for p in parts])[:len(x)], x, atol=1e-6)


def test_processes_crop_differently_and_a_share_leaves_the_loader_as_it_was():
    s = make_source(32)
    same = Split(np.repeat(s.split('train').images[:1], 32, 0), s.split('train').leaf)
    s = s.but(splits=s.splits | dict(train=same))
    def make():
        dl = dataloaders(s, s.level('leaf'), bs=32, device='cpu', augment='crop:3+flip').train
        dl.seed(0)
        return dl
    dls = make(),make()
    a,b = (next(iter(RankDL.of(dl, r, 2)))[0] for r,dl in enumerate(dls))
    assert not torch.equal(a, b) and len(torch.unique(torch.cat([a, b]).flatten(1), dim=0)) > 16
    dls[0].seed(0)
    assert torch.equal(next(iter(dls[0]))[0], next(iter(make()))[0])


def test_a_share_goes_on_in_the_middle_of_an_epoch():
    make = lambda: RankDL.of(loader(50, 8, 'crop:2+flip'), 1, 4)
    whole,dl,rest = list(make()),make(),make()
    for i,_ in enumerate(dl):
        if i == 3: break
    rest.load_state_dict(json.loads(json.dumps(dl.state_dict())))
    for a,b in zip(rest, whole[4:], strict=True): assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(TrainingError, match='multiple of 3'): RankDL.of(loader(64, 16), 0, 3)


script = '''
import json, random, sys, numpy as np, torch
from fastai.callback.core import Callback
sys.path.insert(0, {tests!r})
from fastai.torch_core import num_distrib, rank_distrib, set_seed
from test_distributed import make_source
from fastai.learner import Learner
from granularity_nb.data.block import dataloaders
from granularity_nb.training.distributed import distributed
from granularity_nb.training.pretrain import fit, pretrain
from granularity_nb.training.recipe import Recipe, TrainingError
torch.set_num_threads(1)
s = make_source()
dls = dataloaders(s, s.level('leaf'), bs=32, device='cpu')
set_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
class Draws(Callback): # what each process draws from the generators that augmentations may use
    def before_batch(self):
        if hasattr(self, 'drawn') or not num_distrib(): return
        self.drawn = [None]*num_distrib()
        torch.distributed.all_gather_object(self.drawn, [random.random(), np.random.rand(), torch.rand(1).item()])
draws = Draws()
learn = fit(net, dls, Recipe(epochs=3, lr=.05, accumulate=2, clip=1., ema=.5), seed=1, progress=False, cbs=[draws])
out = dict(losses=[float(o) for o in learn.recorder.losses], values=[list(v)[1:3] for v in learn.recorder.values], weights=net[1].weight.flatten().tolist(), draws=getattr(draws, 'drawn', None))
class Rows(Callback): # which images all processes together train on in an epoch
    def after_train(self):
        self.rows = [None]*num_distrib()
        torch.distributed.all_gather_object(self.rows, list(self.dl._DataLoader__idxs))
if num_distrib():
    dls,rows = dataloaders(s, s.level('leaf'), bs=32, device='cpu'),Rows()
    dls.train.rng = random.Random(rank_distrib()) # as different as processes are when they start
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    by_hand = Learner(dls, net, cbs=[rows])
    with by_hand.no_bar(), by_hand.no_logging(), distributed(by_hand, Recipe()): by_hand.fit(1)
    out['rows'] = rows.rows
try: pretrain(s, s.level('leaf'), sys.argv[1]+'-bn', Recipe(epochs=1, bs=32), progress=False, device='cpu')
except TrainingError as e: out['error'] = str(e)
pretrain(s, s.level('leaf'), sys.argv[1]+'-run', Recipe(epochs=2, bs=32, sync_bn=False), progress=False, device='cpu', save_minutes=0, valid='valid')
if not rank_distrib(): json.dump(out, open(sys.argv[1]+'.json', 'w'))
'''


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    tmp,res = tmp_path_factory.mktemp('launch'), {}
    (tmp/'train.py').write_text(script.format(tests=os.path.dirname(__file__)))
    for n in (1, 2):
        how = ['-m','torch.distributed.run','--standalone','--nproc_per_node',str(n)] if n > 1 else []
        r = subprocess.run([sys.executable, *how, str(tmp/'train.py'), str(tmp/str(n))], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
        assert r.returncode == 0, r.stderr[-3000:]
        res[n] = json.loads((tmp/f'{n}.json').read_text()) | dict(folder=tmp/f'{n}-run')
    return res


def test_two_processes_have_the_losses_of_one(results):
    for k in ('losses','values','weights'): assert np.abs(np.subtract(results[1][k], results[2][k])).max() < 1e-4, k


def test_processes_that_were_seeded_differently_still_share_one_order(results):
    a,b = results[2]['rows']
    assert sorted(a+b) == list(range(256))


def test_processes_draw_different_numbers(results):
    for a,b in zip(*results[2]['draws']): assert a != b


def test_batch_norm_on_cpus_is_refused_unless_asked_for(results):
    assert 'error' not in results[1] and 'sync_bn=False' in results[2]['error']


def test_one_process_writes(results):
    from granularity_nb.training.backbone import load_checkpoint
    assert sorted(o.name for o in results[2]['folder'].iterdir()) == ['checkpoint.json', 'metrics.csv', 'model.safetensors']
    assert len((results[2]['folder']/'metrics.csv').read_text().splitlines()) == 3
    assert load_checkpoint(results[2]['folder']).info['metrics']['error_rate'] <= 1


def test_a_process_whose_images_cannot_be_read_makes_as_many_steps():
    s = make_source(24)
    class Some: # as images that are decoded when they are read
        files = None
        def __init__(self, x, bad): self.x,self.bad,self.shape,self.dtype,self.ndim = x,bad,x.shape,x.dtype,x.ndim
        def __len__(self): return len(self.x)
        def __getitem__(self, i): return self.x[i]
        def fetch(self, rows): ok = ~np.isin(rows, self.bad); return self.x[rows][ok], ok
    def share(bad):
        train = Split(Some(np.asarray(s.split('train').images[:]), bad), s.split('train').leaf)
        dl = dataloaders(s.but(splits=s.splits | dict(train=train)), s.level('leaf'), bs=8, train='train', device='cpu').train
        dl.shuffle = False
        return [list(RankDL.of(dl, r, 8)) for r in range(8)]
    assert {len(o) for o in share([8, 23])} == {3}
    with pytest.raises(TrainingError, match='process 0: none of its 3 images can be used'): share([0, 8, 16])
