"Every setting is used or refused; what is done is left alone; odd sizes, images and networks; the caller's state stays as it was."
import json, os, random, shutil, tarfile, warnings
from dataclasses import asdict, replace
import numpy as np, pytest, torch
import torch.nn.functional as F
from bars import make_bars
from PIL import Image
from fastai.callback.core import Callback
from granularity_nb.data.block import dataloaders, in_order
from granularity_nb.data.source import Files, Source, SourceError, SourceWarning, Split
from granularity_nb.data.store import StoreError
from granularity_nb.data.stream import FileImages, TarFiles, stream
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.study.plan import Plan, StudyError, checked
from granularity_nb.training.backbone import BackboneError, Checkpoint, Classifier, create_backbone, export_timm, load_checkpoint, save_checkpoint
from granularity_nb.training.callbacks import loss_function
from granularity_nb.training.evaluate import evaluate, load_predictions, log_probs, save_predictions
from granularity_nb.training.longrun import _load_json, _load_tensors, _save, caller_state
from granularity_nb.training.objectives import Levels, objective
from granularity_nb.training.pretrain import fit, new_classifier, pretrain
from granularity_nb.training.recipe import Recipe, TrainingError, check_pretraining, check_transfers, for_transfer
from granularity_nb.training.shift import adapt_batchnorm, batchnorm_shift
from granularity_nb.training.transfer import features, layer_groups, linear_probe, split_features, transfer, tune

pytestmark = pytest.mark.filterwarnings("ignore:the probe's best C", 'ignore:the best learning rate')
r = Recipe(epochs=1, bs=32, lr=.05)
H = Hierarchy.from_edges([('left','vertical'), ('right','vertical'), ('bottom','horizontal'), ('top','horizontal'), ('left','side'), ('top','side')])


@pytest.fixture(scope='module')
def bars(): return make_bars(256, 64)

@pytest.fixture(scope='module')
def both(bars): return Source('bars', H, bars.splits, bars.target)

@pytest.fixture(scope='module')
def fine(bars, tmp_path_factory): return pretrain(bars, bars.level('place'), tmp_path_factory.mktemp('fine'), r, progress=False)


# ---- settings

class Small(torch.nn.Module):
    "One linear layer on few pixels."
    def __init__(self, n): super().__init__(); self.layer = torch.nn.Linear(16, n)
    def forward(self, x): return self.layer(x.as_subclass(torch.Tensor)[:,0,::4,::4].flatten(1))


@pytest.mark.parametrize('spec', ['auto','softmax'])
def test_label_smoothing_is_used(bars, spec):
    f = loss_function(replace(r, objective=spec, label_smoothing=.3), dataloaders(bars, bars.level('place'), bs=8))
    x,y = torch.randn(5, 4),torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(f(x, y), F.cross_entropy(x, y, label_smoothing=.3)) and not torch.allclose(f(x, y), F.cross_entropy(x, y))


def test_label_smoothing_of_several_classes_and_of_several_maps(both):
    x,y,s = torch.randn(5, 3),torch.tensor([[1,0,1], [0,1,0], [1,1,0], [0,0,1], [1,0,0]]).float(),.3
    soft = torch.stack([(1-s)*row+s*row.sum()/3 for row in y])
    m = both.hierarchy.level(1, paths='all')
    for spec,reduce in (('auto', 'mean'), ('sigmoid', 'mean'), ('sigmoid:sum', 'sum')):
        f = loss_function(replace(r, objective=spec, label_smoothing=s), dataloaders(both, m, bs=8))
        each = F.binary_cross_entropy_with_logits(x, soft, reduction='none')
        assert torch.allclose(f(x, y), each.mean() if reduce == 'mean' else each.sum(1).mean()), spec
    leaf = torch.arange(4)
    two = Levels([LabelMap.identity(both.hierarchy.leaves), m], label_smoothing=s)
    x = torch.randn(4, 7)
    rows = torch.from_numpy(m.encode(np.arange(4))).float()
    want = F.cross_entropy(x[:,:4], leaf, label_smoothing=s)+F.binary_cross_entropy_with_logits(x[:,4:], (1-s)*rows+s*rows.mean(1, keepdim=True))
    assert torch.allclose(two(x, leaf), want)


def test_label_smoothing_of_the_semantic_softmax(bars):
    f,g = (loss_function(o, dataloaders(bars, bars.level('place'), bs=8)) for o in (replace(r, objective='semantic', label_smoothing=.3), replace(r, objective='semantic:0.3')))
    x,y = torch.randn(5, f.n_outputs),torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(f(x, y), g(x, y)) and not torch.allclose(f(x, y), loss_function(replace(r, objective='semantic'), dataloaders(bars, bars.level('place'), bs=8))(x, y))


@pytest.mark.parametrize('bad', [dict(objective='hxe:0.5'), dict(objective='soft'), dict(objective='softmax:0.1'), dict(objective='semantic:0.1')], ids=str)
def test_label_smoothing_without_a_meaning_is_refused(bad):
    with pytest.raises(TrainingError, match='label_smoothing'): Recipe(label_smoothing=.1, **bad)


@pytest.mark.parametrize('arg', ['1', '-0.1', 'nan', 'x'])
def test_smoothing_in_the_objective_is_a_share(arg):
    m = LabelMap.identity(['a','b'])
    with pytest.raises(TrainingError, match='softmax'): objective(f'softmax:{arg}', m)


def stepped(source, accumulate, epochs=1, bs=32):
    "Weights after each step, and the batches."
    class Watch(Callback):
        order = 100
        def before_fit(self): self.batches,self.weights = [],[]
        def before_batch(self): self.batches.append((self.x.as_subclass(torch.Tensor).clone(), self.y.as_subclass(torch.Tensor).clone()))
        def after_step(self): self.weights.append(self.model.layer.weight.detach().clone())
    torch.manual_seed(0)
    watch,model = Watch(),Small(2)
    start = model.layer.weight.detach().clone()
    fit(model, dataloaders(source, source.target, bs=bs, valid=None), replace(r, epochs=epochs, accumulate=accumulate, momentum=0., wd=0., schedule='cosine', warmup=0.), progress=False, cbs=[watch])
    return watch, start


@pytest.mark.parametrize('n,accumulate,groups', [(256, 3, (3, 3, 2)), (128, 64, (4,)), (256, 4, (4, 4)), (250, 4, (4, 4)), (256, 1, (1,)*8), (40, 2, (2,))])
def test_every_batch_is_in_a_step(bars, n, accumulate, groups):
    few = bars.but(splits=bars.splits | dict(train=bars.split('train').take(range(n))))
    watch,w = stepped(few, accumulate)
    assert len(watch.batches) == sum(groups) and len(watch.weights) == len(groups)
    torch.manual_seed(0)
    by_hand,at,steps = Small(2),0,sum(groups)
    for k,(size,got) in enumerate(zip(groups, watch.weights)):
        x,y = (torch.cat(o) for o in zip(*watch.batches[at:at+size]))
        at += size
        by_hand.zero_grad()
        F.cross_entropy(by_hand(x), y).backward()
        lr = r.lr*(1+np.cos(np.pi*(at-1)/steps))/2
        with torch.no_grad():
            for p in by_hand.parameters(): p -= lr*p.grad
        assert torch.allclose(by_hand.layer.weight, got, atol=1e-6) and not torch.equal(w, got)
        w = got


def test_each_epoch_begins_a_new_mean(bars):
    watch,_ = stepped(bars, 3, epochs=2)
    assert len(watch.weights) == 2*3


mixing = [dict(mixup=.4), dict(cutmix=1.), dict(mixup=.4, cutmix=1.)]

@pytest.mark.parametrize('mix', mixing, ids=str)
@pytest.mark.parametrize('spec', ['auto','softmax:0.1','hxe:0.5','soft:10','semantic'])
def test_mixed_images_with_every_objective(bars, spec, mix, tmp_path):
    made = load_checkpoint(pretrain(bars, bars.level('place'), tmp_path, replace(r, objective=spec, **mix), progress=False))
    assert np.isfinite(made.info['final_loss'])


@pytest.mark.parametrize('mix', mixing, ids=str)
def test_mixed_images_with_several_classes_and_several_maps(both, mix, tmp_path):
    m = both.hierarchy.level(1, paths='all')
    for k,(maps,spec) in enumerate(((m, 'auto'), (m, 'sigmoid:sum'), (dict(leaf=both.hierarchy.level(0), all=m), 'auto'))):
        assert np.isfinite(load_checkpoint(pretrain(both, maps, tmp_path/str(k), replace(r, objective=spec, **mix), progress=False)).info['final_loss'])


@pytest.mark.parametrize('how', ['finetune','marginal'])
def test_mixed_images_in_a_transfer(bars, fine, how):
    for spec in ('auto','soft:10'): transfer(fine, bars, bars.level('place'), how, replace(r, objective=spec, mixup=.4), progress=False)


@pytest.mark.parametrize('mix', mixing, ids=str)
def test_a_single_image_is_mixed_with_nothing(bars, mix):
    one = bars.but(splits=bars.splits | dict(train=bars.split('train').take([0])))
    for m in (bars.level('place'), bars.target): fit(new_classifier(one, m.n_classes, r, 0), dataloaders(one, m, bs=8), replace(r, **mix), progress=False)


def test_mixed_labels_are_mixed_losses(bars):
    "With all labels equal, mixing labels changes nothing."
    f = objective('hxe:0.5', bars.level('place'), bars.hierarchy)
    from fastai.callback.mixup import MixUp
    x,y = torch.randn(6, 4),torch.tensor([0, 1, 2, 3, 0, 1])
    mix = MixUp(.4)
    mix.learn = type('L', (), dict(training=True))()
    mix.old_lf,mix.lam,mix.yb1 = f,torch.full((6,), .3),(y.flip(0),)
    with_none = objective('hxe:0.5', bars.level('place'), bars.hierarchy)
    with_none.reduction = 'none'
    assert torch.allclose(mix.lf(x, y), (.7*with_none(x, y.flip(0))+.3*with_none(x, y)).mean(), atol=1e-6) and f.reduction == 'mean'


def test_weights_are_for_several_maps(bars, tmp_path):
    with pytest.raises(TrainingError, match='several label maps'): pretrain(bars, bars.target, tmp_path, r, weights=dict(place=2.), progress=False)


def test_settings_that_no_pretraining_can_use_are_refused(bars, tmp_path):
    with pytest.raises(TrainingError, match='no label map'): pretrain(bars, {}, tmp_path, r, progress=False)
    with pytest.raises(TrainingError, match='one output a class'): check_pretraining(Recipe(objective='semantic', prior_bias=True))
    with pytest.raises(TrainingError, match='one output a class'): pretrain(bars, bars.target, tmp_path, replace(r, objective='semantic:0.1', prior_bias=True), progress=False)
    assert not list(tmp_path.iterdir())


def test_seeds_weights_and_rates_have_their_type(bars, fine, tmp_path):
    two = dict(place=bars.level('place'), direction=bars.target)
    f = pretrain(bars, two, tmp_path/'a', r, seed=np.int64(3), weights=dict(place=np.float32(2)), progress=False)
    info = load_checkpoint(f).info
    assert type(info['seed']) is int and info['more'] == dict(weights=dict(place=2.))
    pretrain(bars, two, tmp_path/'a', r, seed=3., weights=dict(place=2), progress=False) # the same run
    for bad in (.5, '1', None, True):
        with pytest.raises(TrainingError, match='^seed must be a whole number'): pretrain(bars, bars.target, tmp_path/'b', r, seed=bad, progress=False)
        with pytest.raises(TrainingError, match='^seed must be a whole number'): transfer(fine, bars, recipe=r, seed=bad, progress=False)
    with pytest.raises(TrainingError, match="weight of 'place' must be a number"): pretrain(bars, two, tmp_path/'b', r, weights=dict(place='2'), progress=False)
    with pytest.raises(TrainingError, match='learning rate must be a number'): tune(fine, bars, recipe=r, lrs=('0.1', .2))
    assert not (tmp_path/'b').exists()


def test_another_backbone_in_a_transfer_is_refused(bars, fine):
    with pytest.raises(TrainingError, match="'timm:resnet18' does nothing in a transfer, the checkpoint's is 'small'"): transfer(fine, bars, recipe=replace(r, backbone='timm:resnet18'), progress=False)


@pytest.mark.parametrize('bad,hows', [(dict(head='probe'), ('readout','probe')), (dict(head='subclass-mean'), ('marginal',)), (dict(layer_decay=.5), ('readout',)), (dict(prior_bias=True), ('marginal','probe'))], ids=str)
def test_settings_that_no_transfer_uses_are_refused_when_planned(bad, hows):
    recipes = lambda **kw: {'a': dict(pretrain=asdict(Recipe()), transfer=asdict(Recipe(**kw)))}
    with pytest.raises(TrainingError, match=f'{next(iter(bad))}=.* does nothing for'): check_transfers(Recipe(**bad), hows)
    with pytest.raises(StudyError, match=next(iter(bad))): checked(Plan(transfers=hows, recipes=recipes(**bad)))
    checked(Plan(transfers=(*hows, 'finetune'), recipes=recipes(**bad)))


@pytest.mark.parametrize('arm', ['pretrain','multi','direct'])
@pytest.mark.parametrize('bad', [dict(head='probe'), dict(layer_decay=.5)], ids=str)
def test_fine_tuning_settings_of_a_pretraining_are_refused_when_planned(arm, bad):
    with pytest.raises(TrainingError, match='is for fine-tuning'): check_pretraining(Recipe(**bad))
    with pytest.raises(StudyError, match='is for fine-tuning'): checked(Plan(recipes={'a': dict(pretrain=asdict(Recipe()), transfer=asdict(Recipe())) | {arm: asdict(Recipe(epochs=16 if arm == 'direct' else 8, **bad))}}))


# ---- done is done

def times(folder): return {o: o.stat().st_mtime_ns for o in folder.rglob('*')}

def test_a_finished_run_is_left_alone(bars, tmp_path, capsys):
    place = bars.level('place')
    f = pretrain(bars, place, tmp_path/'a', r, progress=False)
    before = times(tmp_path)
    for kw in ({}, dict(save_minutes=10), dict(valid='valid'), dict(num_workers=0)): assert pretrain(bars, place, tmp_path/'a', r, progress=False, **kw) == f
    assert times(tmp_path) == before and 'finished: it is left alone' in capsys.readouterr().out
    same = make_bars(256, 64) # the same images, opened again
    pretrain(same, same.level('place'), str(tmp_path/'a'), Recipe.from_dict(r.to_dict()), progress=False)
    assert times(tmp_path) == before


def test_another_run_in_the_folder_of_a_finished_one_is_refused(bars, tmp_path):
    place = bars.level('place')
    pretrain(bars, place, tmp_path, r, progress=False)
    before = times(tmp_path)
    other = bars.but(splits=bars.splits | dict(train=Split(255-bars.split('train').images, bars.split('train').leaf)))
    cases = [((bars, place, replace(r, epochs=2)), {}, 'recipe'), ((bars, bars.target, r), {}, 'label_map'), ((bars, place, r), dict(seed=1), 'seed: 0 there, 1 now'), ((other, place, r), {}, 'training images'),
             ((bars, dict(a=place, b=bars.target), r), {}, 'label_map'), ((bars.but(name='squares'), place, r), {}, 'data'), ((bars, place, r), dict(balance=1.), 'balance')]
    for (s,m,o),kw,word in cases:
        with pytest.raises(TrainingError, match=f'holds another run, finished .*{word}.*; delete it or choose another folder'): pretrain(s, m, tmp_path, o, progress=False, **kw)
    assert times(tmp_path) == before


def test_a_finished_run_of_an_earlier_version_is_known_too(bars, fine):
    meta = json.loads((fine/'checkpoint.json').read_text())
    old = meta | dict(info={k: v for k,v in meta['info'].items() if k != 'content'})
    (fine/'checkpoint.json').write_text(json.dumps(old))
    weights = (fine/'model.safetensors').stat().st_mtime_ns
    pretrain(bars, bars.level('place'), fine, r, progress=False)
    assert (fine/'model.safetensors').stat().st_mtime_ns == weights
    with pytest.raises(TrainingError, match='seed'): pretrain(bars, bars.level('place'), fine, r, seed=3, progress=False)
    (fine/'checkpoint.json').write_text(json.dumps(meta))


def test_a_damaged_checkpoint_is_made_again(bars, fine, tmp_path):
    f = pretrain(bars, bars.level('place'), tmp_path, r, progress=False)
    (f/'model.safetensors').write_bytes((f/'model.safetensors').read_bytes()[:1000])
    a,b = (load_checkpoint(o).model for o in (pretrain(bars, bars.level('place'), f, r, progress=False), fine))
    assert all(torch.equal(x, y) for x,y in zip(a.state_dict().values(), b.state_dict().values()))


def test_the_state_of_an_unfinished_run_is_not_thrown_away(bars, tmp_path):
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.iter == 3: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): pretrain(bars, bars.target, tmp_path, r, progress=False, save_minutes=0, cbs=[Stop()])
    assert (tmp_path/'training.safetensors').exists()
    with pytest.raises(TrainingError, match='unfinished run: give save_minutes'): pretrain(bars, bars.target, tmp_path, r, progress=False)
    pretrain(bars, bars.target, tmp_path, r, progress=False, save_minutes=10)


def test_a_checkpoint_of_another_kind_is_not_overwritten(bars, tmp_path):
    m = bars.level('place')
    save_checkpoint(tmp_path, Checkpoint(Classifier(create_backbone('small', 1), m.n_classes), m, 'small', 1, dict(note='mine')))
    with pytest.raises(TrainingError, match='`pretrain` has not made'): pretrain(bars, m, tmp_path, r, progress=False)


# ---- odd sizes and images

class Echo(torch.nn.Module):
    "Its features are the mean of each quarter of an image."
    num_features = 4
    def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones(1))
    def forward(self, x): return self.w*F.adaptive_avg_pool2d(x.as_subclass(torch.Tensor), 2).flatten(1)

def sized(bars, n, m=64): return bars.but(splits=dict(train=bars.split('train').take(np.arange(n) % 256), valid=bars.split('valid').take(np.arange(m) % 64), test=bars.split('test').take(np.arange(n) % 64)))


@pytest.mark.parametrize('n', [1, 2, 255, 256, 257, 258, 513])
def test_features_and_predictions_of_any_number_of_images(bars, n):
    s = sized(bars, n)
    x,y,rows = split_features(Echo(), s, s.target, 'train')
    mean,std = (o[0] for o in s.split('train').stats)
    images = (torch.from_numpy(np.asarray(s.split('train').images)).float()[:,None]/255-mean)/std
    assert np.array_equal(rows, np.arange(n)) and np.array_equal(y, s.target.encode(s.split('train').leaf)) and np.allclose(x, Echo()(images).detach(), atol=1e-4)
    p = evaluate(Classifier(Echo(), 2), s, s.target)
    assert p.n == n and np.array_equal(p.truth, s.target.encode(s.split('test').leaf))


@pytest.mark.parametrize('n', [2, 255, 256, 257, 258])
def test_a_probe_of_any_number_of_images(bars, n):
    s = sized(bars, n, n)
    if len(set(s.target.encode(s.split('train').leaf))) < 2: pytest.skip('one class')
    assert linear_probe(Echo(), s, s.target, grid=(.1,)).chosen['C_place'] == 'only'


def test_clusters_of_257_images(bars, tmp_path):
    from granularity_nb.study.run import _features
    s = sized(bars, 257)
    save_checkpoint(tmp_path/'runs'/'x', Checkpoint(Classifier(create_backbone('small', 1), 2), s.target, 'small', 1, {}))
    assert _features(tmp_path, 'x', s, 'cpu').shape == (257, 384)


def test_splits_without_images_are_named(bars, fine, tmp_path):
    s = sized(bars, 64, 0)
    for f in (lambda: linear_probe(Echo(), s, s.target), lambda: transfer(fine, s, how='probe'), lambda: transfer(fine, s, recipe=replace(r, head='probe'), progress=False),
              lambda: evaluate(Classifier(Echo(), 2), s, s.target, 'valid'), lambda: tune(fine, s, lrs=(.1,), recipe=r)):
        with pytest.raises(TrainingError, match="'valid' of 'bars' has no images"): f()
    with pytest.raises(SourceError, match="'valid' of 'bars' has no images"): in_order(s, s.target, 'valid')
    none = bars.but(splits=bars.splits | dict(train=bars.split('train').take([])))
    with pytest.raises(TrainingError, match="'train' of 'bars' has no images"): pretrain(none, none.target, tmp_path, r, progress=False)
    pretrain(s, s.target, tmp_path/'v', r, valid='valid', progress=False) # nothing to report on, and no error


def test_a_constant_channel_is_no_divergence(bars, tmp_path):
    def colour(s): return Split(np.stack([s.images, np.full_like(s.images, 100), np.zeros_like(s.images)], -1), s.leaf)
    s = bars.but(splits={k: colour(o) for k,o in bars.splits.items()})
    assert np.isfinite(s.split('train').stats).all()
    x,_,_ = next(iter(in_order(s, s.target, 'train')))
    assert torch.isfinite(x).all() and float(x[:,1:].abs().max()) < 1e-5 and abs(float(x[:,0].std())-1) < .01
    ckpt = pretrain(s, s.target, tmp_path, r, progress=False)
    assert np.isfinite(evaluate(load_checkpoint(ckpt).model, s, s.target).nll)


def test_a_network_that_shares_tensors_is_saved_whole(tmp_path):
    name = 'timm:coat_lite_tiny'
    net = create_backbone(name, 1).eval()
    names = [k for k,_ in net.named_parameters(remove_duplicate=False)]
    assert len(names) > len(dict(net.named_parameters())), 'this one shares none'
    m = LabelMap.identity(['a','b'])
    model = Classifier(net, 2).eval()
    save_checkpoint(tmp_path, Checkpoint(model, m, name, 1, {}))
    again = load_checkpoint(tmp_path).model.eval()
    assert all(torch.equal(a, b) for a,b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert len(dict(again.named_parameters())) == len(dict(model.named_parameters())), 'still shared'
    export_timm(load_checkpoint(tmp_path), tmp_path/'out.safetensors')
    ids = [id(p) for g in layer_groups(model) for p in g]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))


# ---- images from files

@pytest.fixture
def photos(tmp_path):
    "48 files of two classes."
    from PIL import Image
    rng = np.random.default_rng(0)
    for split,n in (('train', 24), ('valid', 8), ('test', 16)):
        for i in range(n):
            d = tmp_path/'photos'/split/('cat','dog')[i % 2]
            d.mkdir(parents=True, exist_ok=True)
            Image.fromarray((rng.integers(0, 90, (32, 32, 3))+100*(i % 2)).astype(np.uint8)).save(d/f'{i:02}.png')
    return tmp_path/'photos'


def test_file_names_are_kept_with_the_predictions(photos, tmp_path):
    s = Source.open('folder', root=str(photos), size=32, cache=str(tmp_path/'cache'))
    p = evaluate(Classifier(create_backbone('small', 3), 2), s, s.target)
    assert sorted(p.files) == sorted(str(o.relative_to(photos)) for o in (photos/'test').rglob('*.png')) and p.files.dtype.kind == 'U'
    assert [o.split('/')[1] for o in p.files] == [s.target.vocab[t] for t in p.truth]
    save_predictions(tmp_path/'p.npz', dict(test=p))
    assert np.array_equal(load_predictions(tmp_path/'p.npz')['test'].files, p.files)


def test_a_broken_file_is_left_out_everywhere_alike(photos, tmp_path):
    from granularity_nb.data.stream import stream
    s = stream(Source.open('folder', root=str(photos), size=None), 32)
    for f in ('train/dog/05.png','valid/cat/02.png','test/dog/07.png'): (photos/f).write_bytes(b'not a picture')
    with pytest.warns(UserWarning, match='1 of the 16 images of .test. cannot be read'): p = evaluate(Classifier(create_backbone('small', 3), 2), s, s.target)
    assert p.n == 15 and 'test/dog/07.png' not in p.files and [o.split('/')[1] for o in p.files] == [s.target.vocab[t] for t in p.truth]
    x,y,rows = split_features(create_backbone('small', 3), s, s.target, 'train')
    assert x.shape == (23, 384) and len(y) == len(rows) == 23 and np.array_equal(y, s.target.encode(s.split('train').leaf[rows]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        probe = linear_probe(create_backbone('small', 3), s, s.target)
        assert evaluate(probe, s, s.target).error == 0, 'bright and dark pictures'


def test_a_first_image_that_cannot_be_read_is_left_out_too(photos, tmp_path):
    from granularity_nb.data.stream import stream
    s = stream(Source.open('folder', root=str(photos), size=None), 32, stats=([.3]*3, [.2]*3))
    for f in ('train/cat/00.png','test/cat/00.png'): (photos/f).write_bytes(b'not a picture')
    dls = dataloaders(s, s.target, bs=8, valid='test')
    assert sum(len(b[1]) for b in dls.train) == 23 and sum(len(b[1]) for b in dls.valid) == 15
    with pytest.raises(SourceError, match='image 0 .* cannot be read'): dls.train_ds[0]
    model = load_checkpoint(pretrain(s, s.target, tmp_path/'run', replace(r, bs=8), progress=False)).model
    with pytest.warns(UserWarning, match='1 of the 16 images'): assert evaluate(model, s, s.target).n == 15


# ---- only what is asked for, and once

def test_evaluation_looks_at_no_other_split(bars):
    def never(): raise AssertionError('the training images are looked at')
    train = Split(never, bars.split('train').leaf)
    vars(train)['stats'] = bars.split('train').stats
    s = bars.but(splits=bars.splits | dict(train=train))
    a,b = (evaluate(Classifier(Echo(), 2).requires_grad_(False), o, o.target).n for o in (s, bars))
    assert a == b == 64


def test_evaluation_keeps_no_matrix_of_images_and_classes(bars, monkeypatch):
    import granularity_nb.training.evaluate as module
    sizes,real = [],module.predictions
    monkeypatch.setattr(module, 'predictions', lambda logp, y: sizes.append(len(logp)) or real(logp, y))
    torch.manual_seed(0)
    model = Classifier(create_backbone('small', 1), 2)
    p,q = evaluate(model, bars, bars.target, bs=10),evaluate(model, bars, bars.target, bs=64)
    assert max(sizes[:-1]) == 10 and sum(sizes) == 128 and np.array_equal(p.truth, q.truth) and np.allclose(p.log_p, q.log_p, atol=1e-5)


def test_a_read_out_derives_its_sums_once(bars, monkeypatch):
    place,calls = LabelMap(bars.hierarchy.leaves, bars.hierarchy.leaves, np.arange(4)),[]
    real = LabelMap._class_pairs
    monkeypatch.setattr(LabelMap, '_class_pairs', lambda self, t: calls.append(1) or real(self, t))
    x = torch.randn(3, 4).log_softmax(-1)
    first = place.log_readout(x, bars.target)
    n = len(calls)
    for _ in range(3): assert torch.equal(place.log_readout(x, bars.target), first)
    place.readout(x.exp(), bars.target), place.log_readout(x.numpy(), bars.target)
    assert n and len(calls) == n
    other = LabelMap(bars.hierarchy.leaves, ['a','b'], [1, 0, 1, 0])
    assert not torch.equal(place.log_readout(x, other), first) and torch.equal(place.log_readout(x, bars.target), first)


def test_what_a_read_out_keeps_may_be_trained_with(bars):
    place = LabelMap(bars.hierarchy.leaves, bars.hierarchy.leaves, np.arange(4))
    with torch.inference_mode(): place.log_readout(torch.randn(2, 4), bars.target)
    x = torch.randn(2, 4, requires_grad=True)
    place.log_readout(x.log_softmax(-1), bars.target)[:,0].sum().backward()
    assert x.grad.abs().sum() > 0


# ---- the caller's state

def state():
    cudnn = torch.backends.cudnn
    return random.getstate(), [o.tolist() if hasattr(o, 'tolist') else o for o in np.random.get_state()], torch.get_rng_state().tolist(), torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize('what', ['pretrain','pretrain again','pretrain, resumable','fit','finetune','marginal','probe','readout','probe first','tune','evaluate','features','linear probe','log_probs','adapt_batchnorm','batchnorm_shift','new classifier','load','diverged'])
def test_the_callers_state_stays(bars, fine, what, tmp_path):
    place = bars.level('place')
    model = Classifier(create_backbone('small', 1), 4)
    dls = dataloaders(bars, place, bs=32)
    def diverged():
        with pytest.raises(TrainingError): pretrain(bars, place, tmp_path, replace(r, lr=1e12), progress=False)
    calls = {'pretrain': lambda: pretrain(bars, place, tmp_path, replace(r, augment='shift:2', mixup=.2), progress=False), 'pretrain again': lambda: pretrain(bars, place, fine, r, progress=False),
             'pretrain, resumable': lambda: pretrain(bars, place, tmp_path, r, progress=False, save_minutes=0), 'fit': lambda: fit(model, dls, r, progress=False),
             **{how: lambda how=how: transfer(fine, bars, how=how, recipe=r, progress=False) for how in ('finetune','marginal','probe','readout')},
             'probe first': lambda: transfer(fine, bars, recipe=replace(r, head='probe'), progress=False), 'tune': lambda: tune(fine, bars, recipe=r, lrs=(.01, .1)),
             'evaluate': lambda: evaluate(model, bars, place), 'features': lambda: features(model.backbone, dls.valid), 'linear probe': lambda: linear_probe(model.backbone, bars, place, grid=(.1,)),
             'log_probs': lambda: log_probs(model, dls.valid), 'adapt_batchnorm': lambda: adapt_batchnorm(model, dls.valid), 'batchnorm_shift': lambda: batchnorm_shift(model, dls.valid),
             'new classifier': lambda: new_classifier(bars, 4, r, 0), 'load': lambda: load_checkpoint(fine), 'diverged': diverged}
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        before = state()
        calls[what]()
        assert state() == before
    finally: torch.backends.cudnn.benchmark = benchmark


def test_state_is_given_back_after_an_error():
    before = state()
    with pytest.raises(ZeroDivisionError), caller_state():
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        torch.set_num_threads(before[3]+1)
        assert torch.backends.cudnn.deterministic
        1/0
    assert state() == before


# ---- what is there is not written over, and is not taken for something else

@pytest.mark.parametrize('change,word', [(dict(format=2), 'its format is 2, this version reads 1: update'), (dict(backbone='timm:resnet_of_tomorrow'), "no backbone 'timm:resnet_of_tomorrow'"),
                                         (dict(label_map=3), 'is broken'), (None, 'is broken')], ids=str)
def test_a_checkpoint_that_cannot_be_opened_is_not_written_over(bars, fine, tmp_path, change, word):
    f = tmp_path/'net'
    shutil.copytree(fine, f)
    text = (f/'checkpoint.json').read_text()
    (f/'checkpoint.json').write_text(text[:-20] if change is None else json.dumps(json.loads(text) | change))
    before = {o.name: o.read_bytes() for o in f.iterdir()}
    with pytest.raises(TrainingError, match=f'{word}.*not written over: delete it or choose another folder'): pretrain(bars, bars.level('place'), f, replace(r, lr=.01), seed=5, progress=False)
    assert {o.name: o.read_bytes() for o in f.iterdir()} == before


def test_maps_of_another_run_are_named(bars, fine):
    for o in (bars.target, dict(a=bars.target)):
        with pytest.raises(TrainingError, match="label_maps: 'level 0, 4 classes, .{6}' there, .*level 1, 2 classes, .{6}'.* now"): pretrain(bars, o, fine, r, progress=False)


class Interrupt(Callback):
    order = 90
    def after_batch(self):
        if self.training and self.learn.train_iter == 3: raise KeyboardInterrupt


def test_an_unfinished_run_does_not_go_on_with_other_images(bars, tmp_path):
    kw = dict(progress=False, save_minutes=0)
    with pytest.raises(KeyboardInterrupt): pretrain(bars, bars.target, tmp_path, r, cbs=[Interrupt()], **kw)
    t = bars.split('train')
    for other in (Split(255-t.images, t.leaf), Split(t.images, t.leaf[::-1])):
        with pytest.raises(TrainingError, match='state of another run .the training images or their labels are others now'): pretrain(bars.but(splits=bars.splits | dict(train=other)), bars.target, tmp_path, r, **kw)
    with pytest.raises(TrainingError, match="'level 1, 2 classes, .{6}' there"): pretrain(bars, bars.level('place'), tmp_path, r, **kw)
    state = _load_json(tmp_path/'training.safetensors')
    old = state | dict(identity={k: v for k,v in state['identity'].items() if k not in ('content','label_maps')}) # as an earlier version wrote it
    _save(tmp_path/'training.safetensors', _load_tensors(tmp_path/'training.safetensors'), old)
    assert load_checkpoint(pretrain(bars, bars.target, tmp_path, r, **kw)).info['seed'] == 0


def test_images_that_a_function_makes_are_known_by_their_pixels(bars, tmp_path):
    x,leaf = bars.split('train').images,bars.split('train').leaf
    def made(o): return bars.but(splits=bars.splits | dict(train=Split(lambda: o, leaf)))
    def listed(o): return bars.but(splits=bars.splits | dict(train=Split(o, leaf, files=Files('/x', ['a'], np.zeros(len(x), int), [f'{i}.png' for i in range(len(x))]))))
    for k,f in dict(made=made, listed=listed).items():
        pretrain(f(x), bars.target, tmp_path/k, r, progress=False)
        pretrain(f(x.copy()), bars.target, tmp_path/k, r, progress=False)
        for other in (255-x, x[:,:8]):
            with pytest.raises(TrainingError, match='images'): pretrain(f(other), bars.target, tmp_path/k, r, progress=False)


def test_streamed_images_are_known_by_their_contents_and_how_they_are_shown(tmp_path):
    rng,h = np.random.default_rng(0),Hierarchy.from_edges([('a','x'), ('b','y')])
    def picture(path): Image.fromarray(rng.integers(0, 255, (24,32,3)).astype(np.uint8)).save(path)
    (tmp_path/'p').mkdir()
    for i in range(8): picture(tmp_path/'p'/f'{i}.bmp')
    def pack():
        with tarfile.open(tmp_path/'t.tar', 'w') as t: t.add(tmp_path/'p', arcname='p')
    pack()
    def source(files, **kw):
        s = Split(FileImages(files, **dict(size=16) | kw), [0,1]*4)
        return Source('pets', h, dict(train=s, valid=s), h.level(0))
    kinds = dict(files=lambda: Files.find(tmp_path/'p'), tar=lambda: TarFiles.find(tmp_path), paths=lambda: sorted(map(str, (tmp_path/'p').iterdir())))
    kw,o = dict(progress=False, device='cpu'),Recipe(epochs=1, bs=4)
    for k,f in kinds.items():
        pretrain(source(f()), source(f()).target, tmp_path/k, o, **kw)
        pretrain(source(f()), source(f()).target, tmp_path/k, o, **kw)
        for bad in (dict(size=20), dict(fit='pad'), dict(mode='L')):
            with pytest.raises(TrainingError, match='images or' if k == 'paths' else f'images: {next(iter(bad))}: '): pretrain(source(f(), **bad), source(f()).target, tmp_path/k, o, **kw)
    picture(tmp_path/'p'/'3.bmp') # of the same size
    pack()
    for k,f in kinds.items():
        with pytest.raises(TrainingError, match='holds another run, finished .*images'): pretrain(source(f()), source(f()).target, tmp_path/k, o, **kw)


def test_a_finished_stream_of_an_earlier_version_is_known(bars, tmp_path):
    b = bars.but(splits=bars.splits | dict(train=Split(lambda: bars.split('train').images, bars.split('train').leaf)))
    f = pretrain(b, b.target, tmp_path, r, progress=False)
    meta = json.loads((f/'checkpoint.json').read_text())
    (f/'checkpoint.json').write_text(json.dumps(meta | dict(info={k: v for k,v in meta['info'].items() if k != 'images'})))
    before = times(tmp_path)
    pretrain(b, b.target, tmp_path, r, progress=False)
    assert times(tmp_path) == before and 'images' in meta['info']


def test_a_backbone_of_a_fixed_size_is_refused_before_the_run(bars, tmp_path):
    with pytest.raises(BackboneError, match=r"'timm:vit_tiny_patch16_224' cannot take the 16×16 images .*224.*: open the data set at a size"): pretrain(bars, bars.target, tmp_path/'a', replace(r, backbone='timm:vit_tiny_patch16_224'), progress=False)
    assert not (tmp_path/'a').exists()


def streamed(folder, n=8, bad=()):
    "Pictures of two classes in turn; those of `bad` are empty files. The image that trains is the one that is judged."
    folder.mkdir()
    for i in range(n):
        if i in bad: (folder/f'{i:03}.bmp').write_bytes(b'')
        else: Image.fromarray(np.full((8,8,3), 60+100*(i%2)+i%5, np.uint8)).save(folder/f'{i:03}.bmp')
    s = Split(FileImages(Files.find(folder), 8), np.arange(n)%2)
    vars(s)['stats'] = [.4]*3,[.2]*3
    h = Hierarchy.from_edges([('a','x'), ('b','y')])
    return Source('pets', h, dict(train=s, valid=s, test=s), h.level(0))


def test_a_batch_of_bad_images_ends_neither_training_nor_evaluation(tmp_path):
    s = streamed(tmp_path/'p', 258, range(250, 258)) # the last batch of 256 has nothing but bad images
    net = load_checkpoint(pretrain(s, s.target, tmp_path/'net', Recipe(epochs=1, bs=4), progress=False, device='cpu')).model
    with pytest.warns(SourceWarning, match='8 of the 258 images'): assert evaluate(net, s, s.target, device='cpu').n == 250
    with pytest.warns(SourceWarning): assert evaluate(net, s, s.target, bs=2, device='cpu').n == 250 # four such batches in a row
    few = streamed(tmp_path/'q', 4, range(4))
    for f in (lambda: evaluate(net, few, s.target, device='cpu'), lambda: split_features(net.backbone, few, s.target, 'train', 'cpu')):
        with pytest.raises(TrainingError, match='none of the 4 images of .* can be read'): f()
    with pytest.raises(TrainingError, match='no batch had two images'): pretrain(few, few.target, tmp_path/'none', Recipe(epochs=1, bs=4), progress=False, device='cpu')
    with pytest.raises(StoreError, match='none of 4 images can be used, such as .*000.bmp: empty'): stream(Source('pets', s.hierarchy, dict(train=Split(few.split('train').files, [0,1]*2)), s.target), 8)


def test_a_file_that_is_gone_is_left_out_and_a_disk_is_told(tmp_path):
    s = streamed(tmp_path/'p', 12)
    x = s.split('train').images
    for i in (0, 1): (tmp_path/'p'/f'{i:03}.bmp').unlink()
    assert [x.fetch([i, i+1])[1].sum() for i in (0, 2, 0, 0, 4)] == [0, 2, 0, 0, 2]
    (tmp_path/'p').rename(tmp_path/'elsewhere')
    for _ in range(2): assert not x.fetch([4, 5])[1].any()
    with pytest.raises(StoreError, match='no image of 3 batches in a row can be read .is the disk still there'): x.fetch([6, 7])


def test_a_batch_that_bad_images_leave_with_one_is_not_trained_on(tmp_path):
    s = streamed(tmp_path/'p', 8, (0, 1, 2, 4, 6))
    dls = dataloaders(s, s.target, bs=4, device='cpu')
    assert sum(len(b[1]) for b in dls.valid) == 3, 'a single image is judged'
    for seed in range(6):
        dls.train.seed(seed)
        assert sorted(len(b[1]) for b in dls.train) in ([2], [3]) # three images in two batches: 2 and 1, or 3 and 0
    pretrain(s, s.target, tmp_path/'net', Recipe(epochs=1, bs=4), progress=False, device='cpu')


def test_a_single_image_is_refused_before_the_run(bars, fine, tmp_path):
    one = bars.but(splits=bars.splits | dict(train=bars.split('train').take([0])))
    with pytest.raises(TrainingError, match='a single image, and batch normalisation needs two'): pretrain(one, one.target, tmp_path/'a', r, progress=False)
    for how in ('finetune','marginal'):
        with pytest.raises(TrainingError, match='a single image'): transfer(fine, one, how=how, recipe=r, progress=False)
    assert not (tmp_path/'a').exists()


def test_a_run_takes_a_recipe_and_a_seed(bars, fine, tmp_path):
    dls,net = dataloaders(bars, bars.target, bs=8),torch.nn.Linear(1, 1)
    ways = dict(pretrain=lambda o, s: pretrain(bars, bars.target, tmp_path/'a', o, s, progress=False), transfer=lambda o, s: transfer(fine, bars, recipe=o, seed=s, progress=False),
                tune=lambda o, s: tune(fine, bars, recipe=o, seed=s), fit=lambda o, s: fit(net, dls, o, s, progress=False))
    for f in ways.values():
        with pytest.raises(TrainingError, match="^recipe: a Recipe is needed, not {'epochs': 1}; Recipe.from_dict"): f(dict(epochs=1), 0)
        with pytest.raises(TrainingError, match='^recipe: a Recipe is needed, not None$'): f(None, 0)
        for bad in (-1, 2**32, 1.5, '1', True):
            with pytest.raises(TrainingError, match='^seed must be a whole number'): f(r, bad)
    assert not (tmp_path/'a').exists()


@pytest.mark.parametrize('how,bad', [('readout', dict(head='probe')), ('readout', dict(prior_bias=True)), ('probe', dict(layer_decay=.5)), ('marginal', dict(prior_bias=True)), ('marginal', dict(head='subclass-mean'))], ids=str)
def test_a_transfer_refuses_what_it_has_no_use_for(bars, fine, how, bad):
    with pytest.raises(TrainingError, match=f'{next(iter(bad))}=.* does nothing for {how}'): transfer(fine, bars, how=how, recipe=replace(r, **bad), progress=False)
    transfer(fine, bars, how=how, recipe=for_transfer(replace(r, **bad), how), progress=False)
    assert for_transfer(replace(r, lr=.3, **bad), 'finetune') == replace(r, lr=.3, **bad)


def test_more_batches_to_accumulate_than_there_are_is_told(bars):
    def train(n):
        dls = dataloaders(bars, bars.target, bs=64)
        fit(new_classifier(bars, 2, r, 0), dls, replace(r, bs=64, accumulate=n), progress=False)
    with pytest.warns(UserWarning, match='accumulate=8, but an epoch has 4 batches: it makes one step'): train(8)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'accumulate')
        train(4)
