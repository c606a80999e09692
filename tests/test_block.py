"Loaders at a label map: the right label beside the right image, whatever the granularity."
import pickle, warnings
import fastai.callback.progress # gives Learner its `no_bar`
import numpy as np, pytest, torch
from granularity_nb.data.block import GatherDL, RandomShift, augmentation, datablock, dataloaders, in_order, relabel
from granularity_nb.data.source import Source, SourceError, Split
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap


@pytest.fixture(scope='module')
def pets():
    "Each image is filled with the number of its leaf, so that a label can be read off the pixels. Poodles are also toys."
    h = Hierarchy.from_edges([('poodle','dog'), ('beagle','dog'), ('tabby','cat'), ('persian','cat'), ('dog','animal'), ('cat','animal'), ('poodle','toy'), ('toy','thing')])
    def split(n, seed):
        leaf = np.random.default_rng(seed).integers(0, 4, n)
        return Split(np.repeat(leaf.astype(np.uint8)*50, 64).reshape(n, 8, 8), leaf)
    species = h.at(['dog','cat'])
    return Source('pets', h, dict(train=split(40, 0), valid=split(13, 1), test=split(9, 2)), species, dict(breed=h.level(0), species=species))


def _leaf(xb, source):
    "Leaf numbers read off a normalised batch of constant images."
    v = xb[:,0,0,0]
    levels = sorted(set(source.split('train').leaf.tolist()))
    order = {x: k for k,x in zip(levels, sorted({round(float(o), 4) for o in v}))}
    return torch.tensor([order[round(float(o), 4)] for o in v])


@pytest.mark.parametrize('level', ['breed', 'species'])
def test_labels_stay_with_their_images(pets, level):
    m = pets.level(level)
    dls = dataloaders(pets, m, bs=40)
    xb,yb = next(iter(dls.train))
    assert torch.equal(torch.as_tensor(np.asarray(yb)), torch.as_tensor(m.encode(_leaf(xb, pets).numpy()).astype(np.int64)))


def test_every_training_image_once_an_epoch_and_validation_in_order(pets):
    dls = dataloaders(pets, pets.level('breed'), bs=7)
    seen = torch.cat([b[1] for b in dls.train])
    assert sorted(seen.tolist()) == sorted(pets.split('train').leaf.tolist())
    assert torch.cat([b[1] for b in dls.valid]).tolist() == pets.split('valid').leaf.tolist()


def test_relabelling_changes_labels_only(pets):
    a = dataloaders(pets, pets.level('breed'))
    b = relabel(a, pets.level('species'))
    (xa,ya),(xb,yb) = next(iter(a.valid)), next(iter(b.valid))
    assert torch.equal(xa, xb) and a.c == 4 and b.c == 2
    assert [b.vocab[i] for i in yb] == [pets.level('species')[a.vocab[i]] for i in ya]
    assert a.vocab == list(pets.level('breed').vocab), 'the old loaders stay as they are'


def test_multi_label_targets_are_multi_hot_and_train_with_bce(pets):
    m = pets.hierarchy.level(1, paths='all')
    assert m.multi
    dls = dataloaders(pets, m, bs=40)
    xb,yb = next(iter(dls.train))
    expected = m.encode(_leaf(xb, pets).numpy())
    assert yb.dtype == torch.float32 and np.array_equal(np.asarray(yb), np.asarray(expected, dtype=np.float32))
    assert 'BCE' in type(dls.loss_func).__name__
    assert sorted(dls.train_ds.decode(dls.train_ds[0])[1]) == sorted(m[pets.hierarchy.leaves[pets.split('train').leaf[0]]])


def test_colour_images_become_channels_first(pets):
    s = pets.split('train')
    colour = np.stack([s.images, s.images//2, np.zeros_like(s.images)], -1)
    source = Source('colour', pets.hierarchy, dict(train=Split(colour, s.leaf), valid=Split(colour, s.leaf)), pets.target, pets.levels)
    xb,_ = next(iter(dataloaders(source, pets.target).valid))
    assert xb.shape == (40, 3, 8, 8)


def test_rows_of_several_splits_are_refused_not_mixed_up(pets):
    from granularity_nb.data.block import RowImage
    img = RowImage([pets.split('train'), pets.split('valid')])
    for rows in ([40, 39], [39, 40], [-1], [53]):
        with pytest.raises(SourceError, match='one split'): img.gather(np.array(rows))
    assert int(img.gather(np.array([41]))[0,0,0,0]) == pets.split('valid').images[1,0,0]


def test_relabelling_from_single_images_brings_validation_back(pets):
    each = dataloaders(pets, LabelMap.identity(pets.ids('train')))
    assert len(each.valid_ds) == 0
    dls = relabel(each, pets.level('breed'))
    assert torch.cat([b[1] for b in dls.valid]).tolist() == pets.split('valid').leaf.tolist()


def test_item_transforms_of_the_user_are_not_skipped(pets):
    from granularity_nb.data.block import datablock
    from fastai.torch_core import TensorImage
    from fasttransform import Transform
    class Black(Transform):
        def encodes(self, x:TensorImage): return x*0
    dls = datablock(pets, pets.level('breed')).new(item_tfms=[Black()]).dataloaders(pets, bs=8, num_workers=0)
    xb,_ = next(iter(dls.train))
    assert len(xb.unique()) == 1


def test_a_last_batch_of_one_image_is_not_trained_on(pets):
    assert [len(b[0]) for b in dataloaders(pets, pets.target, bs=13).train] == [13]*3
    assert [len(b[0]) for b in dataloaders(pets, pets.target, bs=12).train] == [12]*3+[4]


def test_channel_statistics(pets):
    s = pets.split('train')
    mean,std = s.stats
    assert np.allclose([mean, std], [[(s.images/255).mean()], [(s.images/255).std()]])


def test_fastai_item_path_and_gather_path_agree(pets):
    from fastai.data.core import TfmdDL
    ds = dataloaders(pets, pets.level('breed')).train_ds
    for a,b in zip(GatherDL(ds, bs=16, num_workers=0), TfmdDL(ds, bs=16, num_workers=0)):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_test_dl_on_pictures_takes_fastais_way(pets):
    from fastai.torch_core import TensorImageBW
    dls = dataloaders(pets, pets.level('breed'))
    x = TensorImageBW(torch.from_numpy(pets.split('test').images[:5])[:,None])
    xb, = next(iter(dls.test_dl(list(x), num_workers=0)))
    assert xb.shape == (5, 1, 8, 8) and xb.dtype == torch.float32


def test_shift_moves_by_at_most_its_pixels_and_only_when_training():
    from fastai.torch_core import TensorImageBW
    x = torch.zeros(64, 1, 9, 9, dtype=torch.uint8); x[:,0,4,4] = 255
    x = TensorImageBW(x)
    out = RandomShift(2)(x, split_idx=0)
    where = out[:,0].nonzero()
    assert len(where) == 64 and out.dtype == torch.uint8
    d = where[:,1:]-4
    assert d.abs().max() == 2 and len({tuple(o) for o in d.tolist()}) > 10
    assert torch.equal(RandomShift(2)(x, split_idx=1), x)


@pytest.mark.parametrize('bad', ['rotate', 'shift:x', 'shift:1:2', 'crop:-1', 'rrc:2', 'color:0', 'flip:1', 'none:1'])
def test_unknown_augmentation_is_named(bad):
    with pytest.raises(SourceError, match=bad.split(':')[0]): augmentation(bad)


def test_foreign_label_map_is_refused(pets):
    with pytest.raises(SourceError, match='3 leaves'): dataloaders(pets, LabelMap.identity(['a','b','c']))
    with pytest.raises(SourceError, match='valdi'): dataloaders(pets, pets.target, valid='valdi')


# ---- order, seeds, resuming

@pytest.fixture(scope='module')
def photos():
    "Noise in colour, every image another."
    h = Hierarchy.from_edges([('poodle','dog'), ('beagle','dog'), ('tabby','cat'), ('dog','animal'), ('cat','animal'), ('poodle','toy'), ('toy','thing')])
    rng = np.random.default_rng(0)
    def split(n): return Split(rng.integers(0, 256, (n,12,10,3), dtype=np.uint8), rng.choice(3, n, p=[.6,.3,.1]))
    return Source('photos', h, dict(train=split(101), valid=split(20)), h.at(['dog','cat']), dict(breed=h.level(0)))


ALL = 'crop:3+flip+color:0.3'

def batches(dl, epochs=1): return [(b[0].clone(), b[1].clone()) for _ in range(epochs) for b in dl]
def same(a, b): return len(a) == len(b) and all(torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x,y in zip(a, b))


@pytest.mark.parametrize('augment', ['none', 'shift:2'])
def test_default_recipes_train_on_the_bits_of_fastais_own_loader(pets, photos, augment):
    import random
    from fastai.data.core import TfmdDL
    for source in (pets, photos):
        got = []
        for cls in (GatherDL, TfmdDL):
            dl = dataloaders(source, source.target, bs=16, augment=augment, device='cpu').train.new(cls=cls)
            torch.manual_seed(3)
            dl.rng = random.Random(5)
            got.append((batches(dl, 2), torch.get_rng_state()))
        assert same(got[0][0], got[1][0]) and torch.equal(got[0][1], got[1][1])


def test_seed_and_epoch_decide_order_and_augmentation(photos):
    make = lambda: dataloaders(photos, photos.target, bs=16, augment=ALL, device='cpu').train
    a,b,c = make(), make(), make()
    a.seed(1); b.seed(1); c.seed(2)
    first = batches(a, 3)
    torch.rand(7) # whatever else draws
    assert same(first, batches(b, 3)) and not same(first, batches(c, 3))
    n = len(a)
    for epoch in range(3):
        c.seed(1, epoch)
        assert same(batches(c), first[epoch*n:(epoch+1)*n])
    assert not torch.equal(first[0][0], first[n][0])


def test_images_on_a_gpu_are_not_left_to_worker_processes(photos, monkeypatch):
    from granularity_nb.data import block
    held = []
    monkeypatch.setattr(block, '_hold', lambda images, device, share: held.append(share) or True)
    for workers in (0, 1):
        dls = dataloaders(photos, photos.target, bs=16, device='cpu', num_workers=workers)
        monkeypatch.setattr(type(dls), 'device', torch.device('cuda'), raising=False)
        if workers:
            with pytest.raises(SourceError, match='num_workers=0'): block._place(dls, 'device', None)
        block._place(dls, 'auto', None)
        monkeypatch.undo()
        monkeypatch.setattr(block, '_hold', lambda images, device, share: held.append(share) or True)
    assert held == [.5]


@pytest.mark.parametrize('kw', [dict(augment='none'), dict(augment='shift:2'), dict(augment=ALL), dict(augment='rrc+flip', prefetch=2), dict(balance=1., augment='crop:2'), dict(num_workers=2, augment=ALL)])
@pytest.mark.parametrize('stop', [1, 4, 7])
def test_resumed_in_the_middle_of_an_epoch(photos, kw, stop):
    import json
    make = lambda: dataloaders(photos, photos.target, bs=16, device='cpu', **kw).train
    a = make()
    a.seed(1); torch.manual_seed(0)
    whole = batches(a, 2)
    b = make()
    b.seed(1); torch.manual_seed(0)
    for i,_ in enumerate(b):
        state = json.loads(json.dumps(b.state_dict()))
        if i+1 == stop: break
    c = make()
    torch.manual_seed(99)
    c.load_state_dict(state)
    assert c.state_dict() == state, 'a state that was loaded can be saved again'
    assert same(batches(c, 2 if stop < 7 else 1), whole[stop:])
    assert (state['epoch'], state['batch']) == ((0, stop) if stop < 7 else (1, 0))


def test_a_look_is_not_the_beginning_of_an_epoch(photos):
    dl = dataloaders(photos, photos.target, bs=16, device='cpu').train
    dl.one_batch()
    assert dl.state_dict()['batch'] == 0


def test_a_state_of_other_loaders_is_refused(photos):
    a,b = (dataloaders(photos, photos.target, bs=bs, device='cpu').train for bs in (16, 8))
    with pytest.raises(SourceError, match='bs=16.*bs=8'): b.load_state_dict(a.state_dict())


EPOCHS = """
import hashlib, json, os, sys, time, numpy as np, torch
from pathlib import Path
from granularity_nb.data.block import dataloaders
from granularity_nb.data.source import Source
from granularity_nb.files import write_whole
torch.set_num_threads(1)
out,pause = Path(sys.argv[1]),float(sys.argv[2])
source = Source.open('glyphs', n_train=300, n_valid=10, n_test=10)
dl = dataloaders(source, source.target, bs=16, augment='crop:3+flip', device='cpu').train
dl.seed(7)
seen = []
if (out/'state.json').exists():
    saved = json.loads((out/'state.json').read_text())
    dl.load_state_dict(saved['loader'])
    seen = saved['seen']
while dl.epoch < 3:
    for x,y in dl:
        seen.append(hashlib.sha256(x.contiguous().numpy().tobytes()+y.numpy().tobytes()).hexdigest()[:16])
        write_whole(out/'state.json', json.dumps(dict(loader=dl.state_dict(), seen=seen)))
        time.sleep(pause)
print(json.dumps(seen))
"""


def test_killed_in_the_middle_of_an_epoch_the_same_batches_follow(tmp_path, monkeypatch, capsys):
    import json, signal, subprocess, sys, time
    def here(folder):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(sys, 'argv', ['', str(folder), '0'])
        exec(EPOCHS, {})
        return json.loads(capsys.readouterr().out)
    state = tmp_path/'cut'/'state.json'
    state.parent.mkdir()
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', EPOCHS, str(tmp_path/'cut'), '.05'])
    until = time.monotonic()+300
    while time.monotonic() < until and p.poll() is None and not (state.exists() and len(json.loads(state.read_text())['seen']) >= 23): time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert 23 <= len(json.loads(state.read_text())['seen']) < 57, 'killed in the second epoch'
    assert here(tmp_path/'cut') == here(tmp_path/'whole')


# ---- augmentation

def _uint8(n=40, h=12, w=10, c=3):
    from granularity_nb.data.block import _as_image
    return _as_image(torch.from_numpy(np.random.default_rng(1).integers(0, 256, (n,h,w,c), dtype=np.uint8)))


@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('pixels,flip', [(0,False), (0,True), (4,False), (4,True), (9,True)])
def test_crop_and_flip_are_a_window_of_the_mirrored_image(pixels, flip, c):
    from granularity_nb.data.block import CropFlip
    x = _uint8(c=c)
    t = CropFlip(pixels, flip)
    t.reseed(3)
    out,p = t(x, split_idx=0), pixels
    padded = np.pad(np.asarray(x), ((0,0),(0,0),(p,p),(p,p)), mode='reflect')
    seen = set()
    for i,o in enumerate(np.asarray(out)):
        ways = [(dy,dx,f) for dy in range(2*p+1) for dx in range(2*p+1) for f in range(1+flip)
                if np.array_equal(o, padded[i,:,dy:dy+12,dx:dx+10][...,::-1 if f else 1])]
        assert ways, 'no window shows this'
        seen |= {ways[0]}
    assert len(seen) > min(10, (2*p+1)**2*(1+flip)//2) or pixels == 0 and len(seen) == 1+flip
    assert torch.equal(t(x, split_idx=1), x), 'validation is left alone'


def test_crop_larger_than_the_image_is_refused():
    from granularity_nb.data.block import CropFlip
    with pytest.raises(SourceError, match='12.10'): CropFlip(10)(_uint8(), split_idx=0)


def test_resized_crop_stays_inside_and_covers_at_most_the_image():
    from granularity_nb.data.block import ResizedCrop
    from fastai.torch_core import TensorImage
    y,x = np.mgrid[-1:1:33j,-1:1:33j].astype(np.float32)
    ramp = TensorImage(torch.from_numpy(np.stack([y, x, 0*x])).expand(400,3,33,33).contiguous(memory_format=torch.channels_last))
    t = ResizedCrop(.25, flip=True)
    t.reseed(0)
    out = t(ramp, split_idx=0)
    height,width = (out[:,0,-1,16]-out[:,0,0,16])/2, (out[:,1,16,-1]-out[:,1,16,0])/2
    scale = 33/32 # the grid's corners are pixels' centres
    area,ratio = height*width.abs(), width.abs()/height
    assert .2 < area.min() < .35 and .85 < area.max() <= 1.01*scale and 100 < int((width < 0).sum()) < 300
    assert .7 < ratio.min() and ratio.max() < 1.4 and out.abs().max() <= 1.001
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_colour_jitter_of_grey_stays_grey_and_of_nothing_is_nothing():
    from granularity_nb.data.block import ColorJitter
    from fastai.torch_core import TensorImage, TensorImageBW
    g = TensorImage(torch.rand(50,1,8,8).expand(50,3,8,8)*.5+.2)
    t = ColorJitter(.5)
    t.reseed(1)
    out = t(g, split_idx=0)
    assert torch.allclose(out[:,0], out[:,1], atol=1e-5) and torch.allclose(out[:,0], out[:,2], atol=1e-5) and not torch.allclose(out, g, atol=.05)
    assert out.min() >= 0 and out.max() <= 1 and len(set((out.mean((1,2,3))*1000).int().tolist())) > 20
    assert ColorJitter(.5)(TensorImageBW(torch.rand(5,1,8,8)), split_idx=0).shape == (5,1,8,8)


def test_specs_join_and_fold():
    kinds = lambda spec: [type(o).__name__ for o in augmentation(spec)]
    assert kinds('none') == [] and kinds('crop:2+flip') == ['CropFlip'] and kinds('flip+rrc') == ['ResizedCrop'] and kinds('flip') == ['CropFlip']
    t, = augmentation('flip+crop:2')
    assert (t.pixels, t.flip) == (2, True)
    assert kinds('shift:2+flip+color:0.3') == ['RandomShift','CropFlip','ColorJitter']


def test_normalising_has_the_bits_of_fastais():
    from fastai.data.transforms import Normalize
    from fastai.torch_core import TensorImage
    from granularity_nb.data.block import _Normalize
    x = TensorImage(_uint8().float()/255)
    for a in (x, TensorImage(x.contiguous())):
        f,g = (c.from_stats([.4,.5,.6], [.21,.23,.27], cuda=False) for c in (_Normalize, Normalize))
        assert torch.equal(f(a), g(a)) and torch.equal(f.decode(f(a)), g.decode(g(a)))


# ---- where images are, formats

def test_held_images_are_the_same(pets, photos):
    from granularity_nb.data.block import RowImage
    for source in (pets, photos, photos.subsample(50) if hasattr(photos, 'subsample') else photos):
        a,b = (RowImage([source.split(s) for s in ('train','valid')]) for _ in range(2))
        for k in range(2): b.hold(k, 'cpu')
        n = len(source.split('train'))
        for rows in ([3,1,1,0], [n, n+4]): assert torch.equal(a.gather(np.array(rows)), b.gather(np.array(rows)))


def test_a_split_goes_to_the_gpu_when_it_is_asked_for(photos, monkeypatch):
    from granularity_nb.data.block import RowImage, _hold
    splits = [photos.split(s) for s in ('train','valid')]
    need,free = sum(int(np.prod(s.images.shape)) for s in splits),[0]
    for name,o in dict(mem_get_info=lambda d: (free[0], 0), memory_reserved=lambda d: 30, memory_allocated=lambda d: 10).items(): monkeypatch.setattr(torch.cuda, name, o)
    a,b = RowImage(splits),RowImage(splits)
    free[0] = 2*need-21
    assert not _hold(a, 'cpu') and not a._held
    free[0] = 2*need-20 # what torch keeps for reuse is free too
    assert _hold(a, 'cpu') and not a._held, 'a study that only trains need not send the test images'
    rows = np.array([1,0])
    assert torch.equal(a.gather(rows), b.gather(rows)) and [*a._held] == [0]
    free[0] = 0
    assert not _hold(a, 'cpu'), 'the other split has no room'
    a.gather(rows+len(splits[0]))
    assert [*a._held] == [0,1] and _hold(a, 'cpu') and not pickle.loads(pickle.dumps(a))._held
    a._held = {k: torch.zeros_like(x) for k,x in a._held.items()} # what a worker process must not touch
    monkeypatch.setattr(torch.utils.data, 'get_worker_info', lambda: 'a worker')
    assert torch.equal(a.gather(rows), b.gather(rows))


def test_bfloat16_and_channels_last(photos):
    dls = dataloaders(photos, photos.target, bs=16, dtype=torch.bfloat16, augment=ALL, device='cpu')
    for dl in dls.loaders:
        x = dl.one_batch()[0]
        assert x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)


def test_what_is_unknown_is_named(photos):
    with pytest.raises(SourceError, match="place 'gpu'"): dataloaders(photos, photos.target, place='gpu')


def test_making_ahead_ends_when_left_and_hands_on_errors(photos):
    import threading
    from granularity_nb.data.block import _ahead
    before = threading.active_count()
    for i,_ in enumerate(_ahead(iter(range(1000)), 3)):
        if i == 5: break
    assert threading.active_count() == before
    def broken():
        yield 1
        raise OSError('gone')
    got = []
    with pytest.raises(OSError, match='gone'):
        for o in _ahead(broken(), 2): got.append(o)
    assert got == [1] and threading.active_count() == before
    a,b = (dataloaders(photos, photos.target, bs=16, prefetch=p, augment=ALL, device='cpu').train for p in (0, 3))
    a.seed(0); b.seed(0)
    assert same(batches(a), batches(b))


# ---- labels

def test_balance_draws_classes_alike(photos):
    m = photos.level('breed')
    share = {}
    for balance in (0, 1):
        dl = dataloaders(photos, m, bs=50, balance=balance, device='cpu').train
        dl.seed(0)
        share[balance] = np.bincount(torch.cat([b[1] for _ in range(40) for b in dl]).numpy(), minlength=3)
    assert np.array_equal(share[0][np.argsort(share[0])]/share[0].sum() > .4, [False, False, True])
    assert np.allclose(share[1]/share[1].sum(), 1/3, atol=.02)
    assert len(dataloaders(photos, m, bs=50, balance=1, device='cpu').train.new(shuffle=False).get_idxs()) == 101


def test_class_weights_are_scikit_learns(photos):
    from sklearn.utils.class_weight import compute_class_weight
    from granularity_nb.data.block import class_weights, sample_weights
    leaf,m = photos.split('train').leaf, photos.level('breed')
    y = m.encode(leaf)
    assert np.allclose(class_weights(m, leaf), compute_class_weight('balanced', classes=np.arange(3), y=y), rtol=1e-5)
    assert np.allclose(class_weights(m, leaf, 0), 1)
    multi = photos.hierarchy.level(1, paths='all')
    hot = multi.encode(leaf)
    assert np.allclose(class_weights(multi, leaf), (len(leaf)-hot.sum(0))/hot.sum(0), rtol=1e-5)
    w = sample_weights(multi, leaf)
    assert np.allclose(w, np.where(hot > 0, 1/hot.sum(0), 0).max(1))


def test_target_and_source_labels_at_once(photos):
    from fastai.learner import Learner
    m,t = photos.level('breed'), photos.target
    dls = dataloaders(photos, m, bs=16, also=[t], device='cpu')
    x,y,yt = dls.valid.one_batch()
    assert [t[m.vocab[i]] for i in y] == [t.vocab[i] for i in yt] and dls.c == 3 and list(dls.vocab) == list(m.vocab)
    seen = []
    def target_share(pred, y, yt): seen.append(len(yt)); return float((yt >= 0).float().mean())
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 3)), metrics=[target_share])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert sum(seen) >= 20 and len(relabel(dls, t).valid.one_batch()) == 3
    with pytest.raises(SourceError, match='other leaves'): dataloaders(photos, m, also=[LabelMap.identity(['a'])])


def test_relabelling_keeps_settings_and_shares_images(photos):
    from granularity_nb.data.block import _gatherers
    a = dataloaders(photos, photos.level('breed'), bs=16, augment=ALL, balance=1, prefetch=2, device='cpu')
    b = relabel(a, photos.target)
    fresh = dataloaders(photos, photos.target, bs=16, augment=ALL, balance=1, prefetch=2, device='cpu')
    assert _gatherers(a.train_ds)[0] is _gatherers(b.train_ds)[0] and list(b.vocab) == list(fresh.vocab) and b.c == 2
    for dls in (b, fresh): dls.train.seed(0)
    assert same(batches(b.train), batches(fresh.train)) and same(batches(b.valid), batches(fresh.valid)), 'as if made anew'
    multi = relabel(a, photos.hierarchy.level(1, paths='all'))
    assert multi.train.one_batch()[1].dtype == torch.float32 and 'BCE' in type(multi.loss_func).__name__
    assert a.valid.one_batch()[1].dtype == torch.int64 and a.c == 3, 'the old ones stay'


@pytest.mark.parametrize('paths', ['first', 'all'])
def test_label_block_in_a_data_block_of_ones_own(photos, paths):
    from fastai.data.block import DataBlock, TransformBlock
    from granularity_nb.data.block import LabelBlock
    m = photos.hierarchy.level(1, paths=paths)
    names = ['poodle','tabby','beagle','poodle','tabby','beagle']
    dls = DataBlock(blocks=[TransformBlock, LabelBlock(m)], splitter=lambda o: ([0,1,2],[3,4,5])).dataloaders(names, bs=3, num_workers=0, device='cpu')
    y = dls.valid.one_batch()[1]
    expected = m.encode([m.leaves.index(o) for o in names[3:]])
    assert np.array_equal(np.asarray(y), expected) and list(dls.vocab) == list(m.vocab) and ('BCE' in type(dls.loss_func).__name__) == m.multi


# ---- after training

def test_exported_learners_hold_no_images_and_answer_for_pictures(photos, tmp_path):
    import warnings
    from PIL import Image
    from fastai.learner import Learner, load_learner
    big = Source('big', photos.hierarchy, dict(train=Split(np.random.default_rng(0).integers(0, 256, (3000,12,10,3), dtype=np.uint8), np.zeros(3000, int)), valid=photos.split('valid')), photos.target)
    learn = Learner(dataloaders(big, big.target, bs=16, device='cpu'), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 2)), path=tmp_path)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60,50,3), dtype=np.uint8))
    picture.save(tmp_path/'picture.png')
    learn.export('learn.pkl')
    assert (tmp_path/'learn.pkl').stat().st_size < big.split('train').images.nbytes/4
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        alone = load_learner(tmp_path/'learn.pkl')
    answers = []
    for l in (learn, alone):
        with l.no_bar(): answers += [l.predict(o) for o in (picture, tmp_path/'picture.png', str(tmp_path/'picture.png'), (tmp_path/'picture.png').read_bytes())]
    assert all(torch.equal(o[2], answers[0][2]) and o[0] == answers[0][0] for o in answers)
    dl = alone.dls.test_dl([tmp_path/'picture.png']*3, num_workers=0)
    with alone.no_bar(): assert alone.get_preds(dl=dl)[0].shape == (3, 2)
    with pytest.raises(SourceError, match='without their images'): alone.dls.test_dl([0, 1], num_workers=0).one_batch()


def test_validation_predictions_are_in_order(photos):
    from fastai.learner import Learner
    dls = dataloaders(photos, photos.level('breed'), bs=8, device='cpu')
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 3)))
    with learn.no_bar(): _,y = learn.get_preds()
    assert np.array_equal(y, photos.level('breed').encode(photos.split('valid').leaf))


class _Tells(torch.nn.Module):
    "Knows the leaf by the pixels' value and answers with its classes; only tabbies it takes for Persians."
    def __init__(self, m, mean, std):
        super().__init__()
        self.mean,self.std,self.unused = mean,std,torch.nn.Parameter(torch.zeros(1))
        self.register_buffer('answer', torch.from_numpy(m.membership.toarray()[[0,1,2,1]]).float()*8-4)
    def forward(self, x): return self.answer[((x[:,0,0,0]*self.std+self.mean)*255/50).round().long().clamp(0, 3)]+self.unused


def _everywhere(pets, how):
    "Loaders of pets and a network that knows them: made afresh, relabelled, by a block of one's own, with several classes a leaf or two labels."
    from fastai.vision.all import DataBlock, ImageBlock, PILImageBW
    from granularity_nb.data.block import LabelBlock
    m = pets.hierarchy.level(1, paths='all') if 'multi' in how else pets.level('breed')
    mean,std = (o[0] for o in pets.split('train').stats)
    if 'block' not in how:
        dls = dataloaders(pets, pets.target if how == 'relabelled' else m, bs=8, device='cpu', also=[pets.target] if how == 'two labels' else [])
        return relabel(dls, m) if how == 'relabelled' else dls, m, _Tells(m, mean, std)
    leaf,images = (np.concatenate([getattr(pets.split(s), o) for s in ('train','valid')]) for o in ('leaf','images'))
    block = DataBlock([ImageBlock(PILImageBW), LabelBlock(m)], get_items=lambda _: range(53), get_x=lambda r: PILImageBW.create(images[r]),
                      get_y=lambda r: pets.hierarchy.leaves[leaf[r]], splitter=lambda o: (list(range(40)), list(range(40, 53))))
    return block.dataloaders(None, bs=8, device='cpu'), m, _Tells(m, 0., 1.)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('how', ['fresh','relabelled','block','multi','multi block','two labels'])
def test_all_that_fastai_offers_with_names_and_numbers_right(pets, how, tmp_path, capsys):
    import matplotlib.pyplot as plt
    from fastai.vision.all import CategoryMap, ClassificationInterpretation, Interpretation, Learner, PILImageBW, SGD, load_learner
    dls,m,model = _everywhere(pets, how)
    names,leaf = list(m.vocab),pets.split('valid').leaf
    true,said = m.encode(leaf),m.encode(np.array([0,1,2,1])[leaf])
    wrong = np.flatnonzero(leaf == 3)
    assert type(dls.vocab) is CategoryMap and [*dls.vocab] == names and dls.vocab.o2i == {o:i for i,o in enumerate(names)} and dls.c == len(names) == m.n_classes
    learn = Learner(dls, model, opt_func=SGD, path=tmp_path)
    picture,answer = PILImageBW.create(np.full((8,8), 50, np.uint8)), list(m['persian']) if m.multi else m['persian']
    plain = lambda o: list(o) if m.multi else str(o)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.)
        loss, = learn.validate()
        probs,y,decoded = learn.get_preds(with_decoded=True)
        y = y[0] if how == 'two labels' else y
        assert np.array_equal(y, true) and np.array_equal(decoded, said) and probs.shape == (13, len(names))
        assert [o.shape for o in learn.tta()[:1]] == [probs.shape]
        assert plain(learn.predict(picture)[0]) == answer
        assert learn.get_preds(dl=dls.test_dl([picture]*3))[0].argmax(1).tolist() == [names.index(answer[0] if m.multi else answer)]*3
        assert learn.validate(dl=dls.test_dl(list(dls.valid_ds.items), with_labels=True))[0] == pytest.approx(loss)
        learn.lr_find(num_it=10, end_lr=1e-6, stop_div=False, suggest_funcs=(), show_plot=False)
        for o in (dls, dls.valid): o.show_batch(max_n=2)
        titles = [a.get_title() for a in plt.gcf().axes]
        assert all(names[true[i]] in t for i,t in enumerate(titles)) if not m.multi else titles == [';'.join(np.array(names)[true[i] > 0]) for i in (0, 1)]
        dls.train.show_batch(max_n=2, unique=True)
        assert len({a.get_title() for a in plt.gcf().axes}) == 1
        learn.show_results(max_n=6)
        titles = [a.get_title().split('\n') for a in plt.gcf().axes]
        if not m.multi: assert len(titles) == 6 and all(o in [[names[t],names[s]] for t,s in zip(true, said)] for o in titles)
        worst = Interpretation.from_learner(learn)
        losses,rows = worst.top_losses(len(wrong))
        if not m.multi: assert sorted(rows.tolist()) == wrong.tolist() and losses.mean()*len(wrong)/13 == pytest.approx(loss, rel=.01)
        if how != 'two labels': # fastai interprets one target
            worst.plot_top_losses(3); worst.show_results([0, 1])
            inter = ClassificationInterpretation.from_learner(learn)
            inter.plot_confusion_matrix(); inter.print_classification_report()
            printed = capsys.readouterr().out
            assert inter.vocab == names and inter.confusion_matrix().shape == (len(names),)*2 and all(o in printed for o in names)
            if not m.multi: assert inter.most_confused() == [('tabby', 'persian', len(wrong))]
            if not m.multi: assert inter.confusion_matrix().tolist() == [[int(((true == i) & (said == j)).sum()) for j in range(4)] for i in range(4)]
        learn.save('weights'); learn.load('weights')
        learn.summary()
    if 'block' in how: return # the test's own functions cannot be pickled
    learn.export(tmp_path/'learn.pkl')
    alone = load_learner(tmp_path/'learn.pkl')
    with alone.no_bar(): assert plain(alone.predict(picture)[0]) == answer and [*alone.dls.vocab] == names
    plt.close('all')


def test_the_name_of_a_level_does_for_its_label_map(pets):
    a = dataloaders(pets, 'breed', also=['species'])
    assert a.label_map is pets.level('breed') and relabel(a, 'species').label_map is pets.level('species') and relabel(a, 'target').label_map is pets.target
    assert in_order(pets, 'species', 'test').dataset.tls[1].vocab == ['cat','dog'] and len(datablock(pets, 'breed').datasets(pets)) == 53
    for f in (lambda o: dataloaders(pets, o), lambda o: relabel(a, o), lambda o: datablock(pets, o), lambda o: in_order(pets, o)):
        with pytest.raises(SourceError, match="no level of 'pets' 'specie'; did you mean 'species'"): f('specie')
        with pytest.raises(SourceError, match="no level of 'pets' 3"): f(3)


@pytest.mark.parametrize('exported', [False, True])
@pytest.mark.filterwarnings('ignore')
def test_arrays_and_tensors_are_pictures_too(photos, exported, tmp_path):
    "As fastai's `ImageBlock` takes them; whatever their size, they are brought to that of the images."
    from PIL import Image
    from fastai.learner import Learner, load_learner
    from fastai.torch_core import TensorImage, TensorImageBW
    s = photos.split('train').images
    dls = dataloaders(photos, photos.target, bs=16, device='cpu')
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(s.shape[1:])), 2)), path=tmp_path)
    if exported:
        learn.export('learn.pkl')
        learn = load_learner(tmp_path/'learn.pkl')
    a = np.random.default_rng(1).integers(0, 256, (60,50,3), dtype=np.uint8)
    x = torch.from_numpy(a).permute(2, 0, 1)
    with learn.no_bar():
        expected = learn.predict(Image.fromarray(a))[2]
        for o in (a, x, TensorImage(x)): assert torch.equal(learn.predict(o)[2], expected)
        grey = learn.predict(Image.fromarray(a[...,0]))[2]
        for o in (a[...,0], a[...,:1], x[0], x[:1], TensorImageBW(x[:1])): assert torch.equal(learn.predict(o)[2], grey)
        for o in (TensorImage(x.float()/255), x[None]):
            with pytest.raises(SourceError, match=r'^a picture as a tensor must be uint8 \(channels, height, width\), not (float32|uint8) \('): learn.predict(o)
        for o in (a/255., a[None]):
            with pytest.raises(ValueError, match='uint8 of .h, w. or .h, w, 3. is needed'): learn.predict(o)

def test_an_image_of_the_set_as_tensor_is_left_as_it_is(photos):
    dls = dataloaders(photos, photos.target, bs=16, device='cpu')
    x = dls.train_ds[3][0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        got = dls.test_dl([x, np.asarray(photos.split('train').images[3])], num_workers=0).one_batch()[0]
    want = dls.test_dl([3], num_workers=0).one_batch()[0][0]
    assert torch.equal(got[0], want) and torch.equal(got[1], want)
