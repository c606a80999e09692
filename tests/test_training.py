"Backbones, checkpoints, pretraining and the four transfers, on images that are easy to learn."
import json, os, warnings
from dataclasses import asdict, replace
import numpy as np, pandas as pd, pytest, torch
from bars import make_bars
from fastai.callback.core import Callback
from granularity_nb.data.source import Source, Split
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.training.backbone import BackboneError, Checkpoint, Classifier, create_backbone, load_checkpoint, save_checkpoint
from granularity_nb.training.evaluate import evaluate
from granularity_nb.training.pretrain import pretrain
from granularity_nb.training.recipe import DivergenceError, Recipe, TrainingError, heads, keeps_head, transfer_names
from granularity_nb.training.transfer import best_rate, layer_groups, transfer, tune

recipe = Recipe(epochs=4, bs=32, lr=.05)
pytestmark = pytest.mark.filterwarnings("ignore:the probe's best C", 'ignore:the best learning rate')


@pytest.fixture(scope='module')
def bars(): return make_bars(256, 200)


@pytest.fixture(scope='module')
def fine(bars, tmp_path_factory): return pretrain(bars, bars.level('place'), tmp_path_factory.mktemp('fine'), recipe, seed=0, progress=False)


@pytest.mark.parametrize('how', transfer_names)
def test_each_transfer_learns_and_leaves_the_checkpoint_alone(bars, fine, how):
    before = load_checkpoint(fine)
    p = evaluate(transfer(fine, bars, how=how, recipe=recipe, progress=False), bars, bars.target)
    assert p.n == 200 and p.error < .1, f'{how}: {p.error}'
    assert np.isclose(p.error, (p.predicted != bars.target.encode(bars.split('test').leaf)).mean())
    after = load_checkpoint(fine)
    assert all(torch.equal(a, b) for a,b in zip(before.model.state_dict().values(), after.model.state_dict().values()))


def test_readout_is_the_sum_of_fine_probabilities(bars, fine):
    ckpt = load_checkpoint(fine)
    model = transfer(ckpt, bars, how='readout').eval()
    x = torch.randn(3, 1, 16, 16)
    p = ckpt.model.eval()(x).softmax(-1)
    expected = torch.stack([p[:, [i for i,v in enumerate(ckpt.label_map.vocab) if bars.target[v] == c]].sum(-1) for c in bars.target.vocab], -1)
    assert torch.allclose(model(x).exp(), expected, atol=1e-6)


def test_probe_trains_only_the_head(bars, fine):
    probe = transfer(fine, bars, how='probe')
    for a,b in zip(load_checkpoint(fine).model.backbone.state_dict().values(), probe.backbone.state_dict().values()): assert torch.equal(a, b)


def test_probe_equals_scikit_learn_on_standardised_features(bars, fine):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from granularity_nb.data.block import dataloaders
    from granularity_nb.training.evaluate import log_probs
    from granularity_nb.training.transfer import features, linear_probe
    ckpt = load_checkpoint(fine)
    dls = dataloaders(bars, bars.target, bs=64)
    x,xv = features(ckpt.model.backbone, dls.train.new(shuffle=False)), features(ckpt.model.backbone, dls.valid)
    ref = make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=500)).fit(x, bars.target.encode(bars.split('train').leaf))
    ours = log_probs(linear_probe(ckpt.model.backbone, bars, bars.target, grid=(.01,)), dls.valid).exp().numpy()
    assert np.abs(ours-ref.predict_proba(xv)).max() < 5e-3


def test_same_seed_same_weights_other_seed_other_weights(bars, fine, tmp_path):
    one = load_checkpoint(pretrain(bars, bars.level('place'), tmp_path/'a', recipe, seed=0, progress=False)).model
    two = load_checkpoint(pretrain(bars, bars.level('place'), tmp_path/'b', recipe, seed=1, progress=False)).model
    assert torch.equal(one.head.weight, load_checkpoint(fine).model.head.weight)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_multi_label_map_trains_and_refuses_the_readout(bars, tmp_path):
    h = Hierarchy.from_edges([('left','vertical'), ('right','vertical'), ('bottom','horizontal'), ('top','horizontal'), ('left','side'), ('top','side')])
    m = h.level(1, paths='all')
    folder = pretrain(bars, m, tmp_path, Recipe(epochs=2, bs=32, lr=.05), progress=False)
    assert load_checkpoint(folder).label_map.multi
    with pytest.raises(TrainingError, match='single label map'): transfer(folder, bars, how='readout')
    assert evaluate(transfer(folder, bars, how='probe'), bars, bars.target).error < .1


def test_unknown_names_are_refused(bars, fine):
    with pytest.raises(TrainingError, match='fine-tune'): transfer(fine, bars, how='fine-tune')
    with pytest.raises(BackboneError, match='resnet1800'): create_backbone('resnet1800')
    with pytest.raises(TrainingError, match='learning_rate'): Recipe.from_dict(dict(learning_rate=1))
    assert Recipe.from_dict(asdict(recipe)) == recipe


def test_image_classes_of_another_draw_are_refused():
    a,b = (Source.open('glyphs', n_train=50, n_valid=10, n_test=10, max_chars=10, seed=s) for s in (0,1))
    m = LabelMap.identity(a.ids('train'))
    ckpt = Checkpoint(Classifier(create_backbone('small', 1), m.n_classes), m, 'small', 1, dict(data='glyphs', data_args=a.args))
    transfer(ckpt, a, how='readout')
    with pytest.raises(TrainingError, match='trained on'): transfer(ckpt, b, how='readout')


def test_diverging_training_fails_loudly(bars, tmp_path):
    with pytest.raises(TrainingError, match='lower lr'): pretrain(bars, bars.target, tmp_path, Recipe(epochs=1, lr=1e12), progress=False)
    assert not (tmp_path/'checkpoint.json').exists()



short = replace(recipe, epochs=1)

def same_weights(a, b): return all(torch.equal(x, y) for x,y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize('how', ['finetune','marginal'])
def test_tuning_picks_what_a_loop_picks(bars, fine, how):
    lrs = (.03, .001, .1)
    model,tried = tune(fine, bars, how=how, recipe=short, lrs=lrs, seed=3)
    loop = []
    for lr in lrs:
        m = transfer(fine, bars, how=how, recipe=replace(short, lr=lr), seed=3, progress=False)
        p = evaluate(m, bars, bars.target, 'valid')
        loop.append((p.error, p.nll, lr, m))
    assert tried == [dict(lr=lr, error=e, nll=nll, n=64) for e,nll,lr,_ in loop] == json.loads(json.dumps(tried))
    assert same_weights(model, sorted(loop, key=lambda o: o[:3])[0][3]) and len({e for e,*_ in loop}|{o[1] for o in loop}) > 1


def test_ties_go_to_the_lower_loss_then_to_the_smaller_rate(bars, fine, monkeypatch):
    import granularity_nb.training.transfer as module
    score = {.3: (.5, 1.), .1: (.5, .9), .2: (.5, .9), 1.: (.6, .1)}
    class P: pass
    def transferred(ckpt, source, target, how, recipe, **kw): return recipe.lr
    def judged(model, *args, **kw):
        p = P()
        p.error,p.nll = score[model]
        return p
    monkeypatch.setattr(module, 'transfer', transferred)
    monkeypatch.setattr(module, 'evaluate', judged)
    for order in (list(score), list(score)[::-1]): assert tune(fine, bars, lrs=order)[0] == .1


def test_the_best_rate_of_a_list():
    ok = dict(lr=.1, error=.5, nll=1.)
    assert best_rate([ok]) == best_rate([ok, dict(lr=.01, error=.5, nll=None)]) == best_rate([dict(lr=1., error=None, nll=None), ok]) == .1 # a loss that is infinite, training that diverged
    assert best_rate([dict(lr=1., error=None, nll=None)]) is None and best_rate([]) is None
    assert best_rate(pd.DataFrame([dict(lr=1., error=None, nll=None), ok]).to_dict('records')) == .1, 'a table has NaN for None'


def test_tuning_goes_on_after_a_divergence(bars, fine, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error') # the best of two is no end of a search
        model,tried = tune(fine, bars, recipe=short, lrs=(1e12, .05), log=tmp_path/'metrics.csv')
    assert tried[0] == dict(lr=1e12, error=None, nll=None, n=64) and tried[1]['error'] is not None
    assert evaluate(model, bars, bars.target, 'valid').error == tried[1]['error']
    assert {o.name for o in tmp_path.iterdir()} == {'metrics-lr1000000000000.0.csv', 'metrics-lr0.05.csv'}
    with pytest.raises(DivergenceError, match='try smaller ones'): tune(fine, bars, recipe=short, lrs=(1e12, 1e13))


def test_the_end_of_the_learning_rates_is_told(bars, fine):
    with pytest.warns(UserWarning, match='0.0003, is at the end'): tune(fine, bars, recipe=short, lrs=(1e-6, 1e-5, 3e-4))


def test_other_failures_are_not_taken_for_divergence(bars, fine):
    with pytest.raises(TrainingError, match='hxe') as e: tune(fine, bars, recipe=replace(short, objective='hxe:x'))
    assert not isinstance(e.value, DivergenceError)


@pytest.mark.parametrize('bad,word', [(dict(lrs=()), 'no learning rate'), (dict(lrs=(.1, .1)), 'twice'), (dict(lrs=(.1, 0)), 'positive'), (dict(lrs=(.1, -1)), 'positive'),
                                      (dict(lrs=(float('nan'),)), 'positive'), (dict(how='readout'), 'readout'), (dict(how='probe'), 'probe'), (dict(how='direct'), 'direct'),
                                      (dict(valid='dev'), "no split 'dev'")], ids=str)
def test_tuning_refuses(bars, fine, bad, word):
    with pytest.raises(TrainingError, match=word): tune(fine, bars, recipe=short, **bad)


def test_tuning_needs_validation_images(bars, fine):
    none = Source('bars', bars.hierarchy, bars.splits | dict(valid=Split(np.zeros((0, 16, 16), np.uint8), np.zeros(0, int))), bars.target)
    with pytest.raises(TrainingError, match='no images'): tune(fine, none, recipe=short)
    h = Hierarchy.from_edges([('left','vertical'), ('right','vertical'), ('bottom','horizontal'), ('top','horizontal'), ('left','side'), ('top','side')])
    with pytest.raises(TrainingError, match='several classes'): tune(fine, bars, h.level(1, paths='all'), recipe=short)



def test_a_fresh_head_may_start_at_the_shares_of_its_classes(bars, fine):
    some = bars.but(splits=bars.splits | dict(train=bars.split('train').take(np.flatnonzero(bars.target.encode(bars.split('train').leaf) == 0)[:64].tolist()+np.flatnonzero(bars.target.encode(bars.split('train').leaf) == 1)[:16].tolist())))
    m = transfer(fine, some, recipe=replace(short, lr=1e-9, wd=0., prior_bias=True), progress=False)
    assert torch.allclose(m.head.bias.softmax(-1), torch.tensor([.8,.2]), atol=.02)
    for head in ('subclass-mean','probe'):
        with pytest.raises(TrainingError, match=f"prior_bias is for a fresh head, head='{head}' has a bias"): transfer(fine, some, recipe=replace(short, head=head, prior_bias=True), progress=False)


def test_the_default_fine_tuning_is_a_fresh_head_and_a_fit(bars, fine):
    from fastai.torch_core import set_seed
    from granularity_nb.data.block import dataloaders
    from granularity_nb.training.pretrain import fit
    backbone = load_checkpoint(fine).model.backbone
    set_seed(5, reproducible=True)
    model = Classifier(backbone, 2)
    fit(model, dataloaders(bars, bars.target, bs=32, valid=None), short, 5, progress=False)
    assert same_weights(model, transfer(fine, bars, recipe=short, seed=5, progress=False))


class Start(Callback):
    "The weights before the first step, its images, and the rate of each parameter in it."
    def before_fit(self): self.state,self.rates = {k: v.clone() for k,v in self.learn.model.state_dict().items()},None
    def before_step(self):
        if self.rates is not None: return
        self.images = self.xb[0].as_subclass(torch.Tensor).clone()
        name = {id(p): k for k,p in self.learn.model.named_parameters()}
        self.rates = {name[id(p)]: float(h['lr']) for ps,h in zip(self.opt.param_lists, self.opt.hypers) for p in ps}


def begun(ckpt, source, r, target=None, **kw):
    start = Start()
    start.chosen = getattr(transfer(ckpt, source, target, recipe=r, progress=False, cbs=[start], **kw), 'chosen', None)
    return start


def test_probe_first_begins_at_the_probe(bars, fine):
    first,probe = begun(fine, bars, replace(short, head='probe')),transfer(fine, bars, how='probe')
    assert first.chosen == probe.chosen and 'C_place' in probe.chosen
    model = Classifier(create_backbone('small', 1), 2)
    model.load_state_dict(first.state)
    x = torch.randn(8, 1, 16, 16)
    assert same_weights(model, probe) and torch.equal(model.eval()(x), probe.eval()(x))


def test_the_mean_of_subclasses_begins_at_the_loops(bars, fine):
    start,head = begun(fine, bars, replace(short, head='subclass-mean')).state,load_checkpoint(fine).model.head
    place = bars.level('place')
    for k,c in enumerate(bars.target.vocab):
        rows = [i for i,v in enumerate(place.vocab) if bars.target[v] == c]
        w = sum(head.weight[i].double() for i in rows)/len(rows)
        b = sum(head.bias[i].double() for i in rows)/len(rows)+np.log(len(rows))
        assert len(rows) == 2 and torch.allclose(start['head.weight'][k].double(), w, atol=1e-7) and torch.allclose(start['head.bias'][k].double(), b, atol=1e-6)


@pytest.mark.parametrize('head', heads)
@pytest.mark.parametrize('layer_decay', [1., .5])
def test_each_beginning_of_fine_tuning_learns(bars, fine, head, layer_decay):
    r = replace(recipe, head=head, layer_decay=layer_decay)
    before = load_checkpoint(fine).model
    assert evaluate(transfer(fine, bars, recipe=r, progress=False), bars, bars.target).error < .1
    assert same_weights(before, load_checkpoint(fine).model) and same_weights(transfer(fine, bars, recipe=r, progress=False), transfer(fine, bars, recipe=r, progress=False))


def a_checkpoint(name, m, channels=1, **info): return Checkpoint(Classifier(create_backbone(name, channels), m.n_classes), m, name, channels, info)


@pytest.mark.parametrize('r', [Recipe(), Recipe(optimizer='adamw', lr=1e-3, decay_norm_bias=False)], ids=['sgd','adamw, some without decay'])
@pytest.mark.parametrize('how', ['finetune','marginal'])
def test_the_small_nets_rates_fall_with_depth(bars, how, r):
    rates = begun(a_checkpoint('small', bars.level('place')), bars, replace(r, epochs=1, schedule='cosine', warmup=0., layer_decay=.6), how=how).rates
    rates = {k.removeprefix('model.'): v for k,v in rates.items()}
    for k,v in rates.items(): # five blocks of a convolution and its normalisation, then the head
        depth = 0 if k.startswith('head') else 5-int(k.split('.')[1])
        assert np.isclose(v, r.lr*.6**depth, rtol=1e-6), k
    assert len(rates) == 5*3+2


@pytest.mark.parametrize('name', ['timm:resnet18','timm:vit_tiny_patch16_224@32','timm:convnext_atto','timm:mobilenetv3_small_050'])
def test_layers_and_rates_are_those_of_timm(bars, name):
    "timm's own groups of the whole network with its head."
    import timm
    from timm.optim import param_groups_layer_decay
    bare = name.removeprefix('timm:').removesuffix('@32')
    kw = dict(img_size=32, patch_size=4) if '@' in name else {}
    full = timm.create_model(bare, in_chans=1, num_classes=2, **kw)
    of = {id(p): k for k,p in full.named_parameters()}
    expected = {of[id(p)]: g['lr_scale'] for g in param_groups_layer_decay(full, layer_decay=.7) for p in g['params']}
    head = 'head.fc' if 'convnext' in bare else next(k for k in ('fc','head','classifier') if f'{k}.weight' in expected)
    groups = layer_groups(model := Classifier(create_backbone(name, 1), 2))
    of = {id(p): k for k,p in model.named_parameters()}
    ours = {of[id(p)]: .7**(len(groups)-1-i) for i,g in enumerate(groups) for p in g}
    ours = {k.removeprefix('backbone.').replace('head.', f'{head}.', 1) if not k.startswith('backbone.') else k.removeprefix('backbone.'): v for k,v in ours.items()}
    assert ours.keys() == expected.keys() and all(np.isclose(ours[k], v) for k,v in expected.items())


@pytest.mark.parametrize('name', ['timm:resnet18@32','timm:vit_tiny_patch16_224@32'])
def test_the_rates_reach_the_optimiser(bars, name):
    big = Source('bars', bars.hierarchy, {k: Split(np.kron(s.images[:8], np.ones((1, 2, 2), np.uint8)), s.leaf[:8]) for k,s in bars.splits.items()}, bars.target, bars.levels)
    ckpt = a_checkpoint(name, bars.level('place'))
    rates = begun(ckpt, big, Recipe(epochs=1, bs=8, lr=.01, schedule='cosine', warmup=0., layer_decay=.7)).rates
    model = Classifier(ckpt.model.backbone, 2)
    of,groups = {id(p): k for k,p in model.named_parameters()},layer_groups(model)
    assert len(groups) == (10 if 'resnet' in name else 14) and len(rates) == len(of)
    for i,g in enumerate(groups):
        for p in g: assert np.isclose(rates[of[id(p)]], .01*.7**(len(groups)-1-i), rtol=1e-6)


@pytest.mark.parametrize('name,n', [('small', 6), ('torchvision:resnet18', 10), ('torchvision:vit_b_16', 14), ('torchvision:convnext_tiny', 23)])
def test_other_networks_are_split_into_their_blocks(name, n):
    "Every parameter once, in the network's order; a layer has weights, not only a normalisation."
    groups = layer_groups(model := Classifier(create_backbone(name, 3), 2))
    of = {id(p): i for i,p in enumerate(model.parameters())}
    flat = [of[id(p)] for g in groups for p in g]
    assert len(groups) == n and sorted(flat) == list(range(len(of)))
    assert all(any(p.ndim > 1 for p in g) for g in groups) and {id(p) for p in groups[-1]} == {id(p) for p in model.head.parameters()}
    if 'vit' not in name: assert flat == sorted(flat) # there the class token is registered before the patches


def test_frozen_parameters_stay_out(bars):
    model = Classifier(create_backbone('small', 1), 2)
    model.backbone[0].requires_grad_(False)
    assert len(layer_groups(model)) == 5 and not {id(p) for p in model.backbone[0].parameters()} & {id(p) for g in layer_groups(model) for p in g}


def test_a_small_layer_decay_freezes_the_first_layers(bars, fine):
    old = load_checkpoint(fine).model.backbone.state_dict()
    new = transfer(fine, bars, recipe=replace(short, layer_decay=1e-3, wd=0.), progress=False).backbone.state_dict()
    moved = [float((new[k]-old[k]).norm()/old[k].norm()) for k in ('0.0.weight','3.0.weight','4.0.weight')]
    assert moved[0] < 1e-9 < moved[1] < moved[2]/100


def test_fine_tuning_settings_are_refused_in_pretraining(bars, tmp_path):
    for bad in (dict(head='probe'), dict(layer_decay=.5)):
        with pytest.raises(TrainingError, match=f'{next(iter(bad))}=.* is for fine-tuning'): pretrain(bars, bars.target, tmp_path, replace(short, **bad), progress=False)


ways = [(how, 'fresh') for how in transfer_names]+[('finetune', h) for h in heads if h != 'fresh']

@pytest.mark.parametrize('how,head', ways)
def test_a_checkpoint_of_several_heads(bars, how, head, tmp_path_factory):
    if not hasattr(bars, 'two'): bars.two = pretrain(bars, dict(place=bars.level('place'), direction=bars.target), tmp_path_factory.mktemp('two'), recipe, progress=False)
    ckpt,r = load_checkpoint(bars.two),replace(short, head=head)
    for name in ckpt.label_map:
        p = evaluate(transfer(ckpt.at(name), bars, how=how, recipe=r, progress=False), bars, bars.target)
        assert p.error < .2, name
    if not keeps_head(how, r): transfer(bars.two, bars, how=how, recipe=r, progress=False) # the backbone is enough
    else:
        with pytest.raises(TrainingError, match=r"several \(place, direction\): choose one, as in load_checkpoint\(folder\).at\('place'\)"): transfer(bars.two, bars, how=how, recipe=r, progress=False)


@pytest.mark.parametrize('how,head', ways)
@pytest.mark.parametrize('objective', ['semantic','hxe:0.5','soft:10'])
def test_checkpoints_of_every_objective(bars, objective, how, head, tmp_path_factory):
    made = bars.__dict__.setdefault('made', {})
    if objective not in made: made[objective] = pretrain(bars, bars.level('place'), tmp_path_factory.mktemp('o'), replace(recipe, objective=objective), progress=False)
    r = replace(short, head=head)
    if objective == 'semantic' and keeps_head(how, r):
        with pytest.raises(TrainingError, match="'semantic', has 6 for the 4 classes of"): transfer(made[objective], bars, how=how, recipe=r, progress=False)
        return
    model = transfer(made[objective], bars, how=how, recipe=r, progress=False)
    assert evaluate(model, bars, bars.target).error < .2
    if how == 'readout':
        x,ckpt = torch.randn(3, 1, 16, 16),load_checkpoint(made[objective])
        p,place = ckpt.model.eval()(x).double().softmax(-1),bars.level('place')
        sums = torch.stack([sum(p[:,i] for i,v in enumerate(place.vocab) if bars.target[v] == c) for c in bars.target.vocab], 1)
        assert torch.allclose(model.eval()(x).double().exp(), sums, atol=1e-6)


@pytest.mark.parametrize('how', ['finetune','marginal'])
@pytest.mark.parametrize('objective,word', [('hxe:0.5', None), ('soft:10', None), ('softmax:0.1', None), ('semantic', 'has 6 outputs for the 4 classes'), ('sigmoid', 'does not fit'), ('magic', 'unknown objective')])
def test_the_objective_of_a_transfer(bars, fine, how, objective, word):
    r,place = replace(recipe, epochs=2, objective=objective),bars.level('place')
    if word is None: assert evaluate(transfer(fine, bars, place, how, r, progress=False), bars, place).error < .2
    else:
        with pytest.raises(TrainingError, match=word): transfer(fine, bars, place, how, r, progress=False)


def test_fine_tuning_to_several_classes_a_leaf(bars, fine):
    h = Hierarchy.from_edges([('left','vertical'), ('right','vertical'), ('bottom','horizontal'), ('top','horizontal'), ('left','side'), ('top','side')])
    both = h.level(1, paths='all')
    source = Source('bars', h, bars.splits, h.level(1), dict(both=both))
    model = transfer(fine, source, both, recipe=recipe, progress=False).eval()
    x = torch.from_numpy(bars.split('test').images[:,None]).float()/255
    mean,std = (o[0] for o in source.split('train').stats)
    with torch.no_grad(): said = model((x-mean)/std) > 0
    assert (said.numpy() == np.asarray(both.encode(source.split('test').leaf))).mean() > .9
    assert transfer(fine, source, both, 'readout')(x).shape == (200, 3) # sums over parts are defined, a loss on them is not
    for how,head in (('marginal','fresh'), ('finetune','subclass-mean')):
        with pytest.raises(TrainingError, match='single label map'): transfer(fine, source, both, how, replace(short, head=head), progress=False)
    with pytest.raises(TrainingError, match='a probe needs one'): transfer(fine, source, both, recipe=replace(short, head='probe'), progress=False)


@pytest.fixture(scope='module')
def crosses(bars):
    "The same bars, darker, under other names and in other superclasses: two leaves, one class each."
    h = Hierarchy.from_paths({'up': ['sign'], 'across': ['sign']})
    up = bars.target.vocab.index('vertical')
    def split(s): return Split(s.images//2+60, (bars.target.encode(s.leaf) != up).astype(int) if h.leaves[0] == 'up' else (bars.target.encode(s.leaf) == up).astype(int))
    return Source('crosses', h, {k: split(s) for k,s in bars.splits.items()}, h.level(0))


@pytest.mark.parametrize('how,head', ways)
def test_transfer_to_other_leaves(bars, fine, crosses, how, head):
    r = replace(recipe, head=head)
    if keeps_head(how, r):
        with pytest.raises(TrainingError, match=f"^{how if how != 'finetune' else 'head='}.* of 'bars', are made of other leaf labels than .* of 'crosses': use 'probe'"): transfer(fine, crosses, how=how, recipe=r, progress=False)
    else: assert evaluate(transfer(fine, crosses, how=how, recipe=r, progress=False), crosses, crosses.target).error < .1


def test_images_are_normalised_by_the_split_they_come_from(fine, crosses):
    x = begun(fine, crosses, replace(short, bs=256)).images
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std())-1) < 1e-4 and load_checkpoint(fine).info['stats'] != [*crosses.split('train').stats]


@pytest.mark.parametrize('how,head', ways)
def test_images_of_another_kind_are_refused(bars, fine, how, head):
    colour = Source('bars', bars.hierarchy, {k: Split(np.repeat(s.images[...,None], 3, -1), s.leaf) for k,s in bars.splits.items()}, bars.target)
    with pytest.raises(TrainingError, match="takes images of 1 channel, those of 'bars' have 3: open both"): transfer(fine, colour, how=how, recipe=replace(short, head=head), progress=False)
    vit = a_checkpoint('timm:vit_tiny_patch16_224@32', bars.level('place'))
    with pytest.raises(TrainingError, match='cannot take the 16×16 images'): transfer(vit, bars, how=how, recipe=replace(short, head=head), progress=False)


@pytest.mark.parametrize('how,head', [o for o in ways if keeps_head(o[0], replace(recipe, head=o[1]))])
def test_heads_that_cross_the_target_are_refused(bars, how, head):
    m = LabelMap(bars.hierarchy.leaves, ['a','b'], [0, 1, 0, 1], name='crossing')
    assert not m.refines(bars.target)
    with pytest.raises(TrainingError, match="does not refine .* lies in .*use 'probe'"): transfer(a_checkpoint('small', m), bars, how=how, recipe=replace(short, head=head), progress=False)


def test_the_mean_over_single_images(bars):
    m = LabelMap.identity(bars.ids('train'))
    ckpt = a_checkpoint('small', m, data='bars', data_args=bars.args)
    start = begun(ckpt, bars, replace(short, head='subclass-mean')).state
    y = bars.target.encode(bars.split('train').leaf)
    for k in range(2): assert torch.allclose(start['head.weight'][k], ckpt.model.head.weight[y == k].double().mean(0).float(), atol=1e-7)
    for other in (dict(data='squares', data_args=bars.args), dict(data='bars', data_args=dict(seed=1))):
        with pytest.raises(TrainingError, match='trained on'): transfer(replace(ckpt, info=other), bars, recipe=replace(short, head='subclass-mean'), progress=False)
    transfer(replace(ckpt, info=dict(data='bars', data_args=dict(root='/elsewhere') | bars.args)), bars, how='readout') # the same images in another folder


@pytest.mark.parametrize('name', ['small', 'timm:resnet10t', 'timm:mobilenetv3_small_050.lamb_in1k', 'torchvision:shufflenet_v2_x0_5', 'torchvision:googlenet'])
def test_checkpoint_round_trip(name, tmp_path):
    m = LabelMap.identity(['a','b','c'])
    model = Classifier(create_backbone(name, 1), 3).eval()
    save_checkpoint(tmp_path, Checkpoint(model, m, name, 1, dict(note='x')))
    again = load_checkpoint(tmp_path)
    x = torch.randn(2, 1, 64, 64)
    assert model.train()(x).shape == (2, 3)
    model.eval()
    save_checkpoint(tmp_path, Checkpoint(model, m, name, 1, dict(note='x')))
    again = load_checkpoint(tmp_path)
    assert torch.equal(model(x), again.model.eval()(x)) and again.label_map == m and again.info == dict(note='x')


@pytest.mark.parametrize('damage', ['json', 'weights', 'missing', 'classes'])
def test_damaged_checkpoint_is_named(damage, tmp_path):
    save_checkpoint(tmp_path, Checkpoint(Classifier(create_backbone('small', 1), 2), LabelMap.identity(['a','b']), 'small', 1, {}))
    meta = tmp_path/'checkpoint.json'
    if damage == 'json': meta.write_text(meta.read_text()[:-20])
    if damage == 'weights': (tmp_path/'model.safetensors').write_bytes((tmp_path/'model.safetensors').read_bytes()[:1000])
    if damage == 'missing': meta.unlink()
    if damage == 'classes': meta.write_text(json.dumps(json.loads(meta.read_text()) | dict(label_map=LabelMap.identity(['a','b','c']).to_dict())))
    with pytest.raises(BackboneError, match='train it again'): load_checkpoint(tmp_path)


def test_weights_of_others_are_not_written_over(bars, tmp_path):
    "A folder of another library holds a file of that name too."
    for name in ('model.safetensors','config.json'): (tmp_path/name).write_text("somebody's")
    with pytest.raises(TrainingError, match='model.safetensors.*another folder'): pretrain(bars, bars.level('place'), tmp_path, Recipe(epochs=1), progress=False, device='cpu')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['config.json','model.safetensors'] and (tmp_path/'model.safetensors').read_text() == "somebody's"


class Moves(Callback):
    "The working directory is another one after the first batch."
    def after_batch(self): os.chdir(self.to)


def test_a_checkpoint_is_where_it_was_to_be_when_training_began(bars, tmp_path, monkeypatch):
    for o in ('here','there'): (tmp_path/o).mkdir()
    monkeypatch.chdir(tmp_path/'here')
    moves = Moves()
    moves.to = tmp_path/'there'
    folder = pretrain(bars, bars.level('place'), 'net', Recipe(epochs=1), progress=False, device='cpu', cbs=[moves])
    assert folder == tmp_path/'here'/'net' and sorted(o.name for o in folder.iterdir()) == ['checkpoint.json','metrics.csv','model.safetensors']
    assert not list((tmp_path/'there').iterdir())


def test_names_of_levels_do_for_label_maps(bars, tmp_path):
    folder = pretrain(bars, 'place', tmp_path/'one', replace(recipe, epochs=1), progress=False)
    assert load_checkpoint(folder).label_map == bars.level('place')
    assert set(load_checkpoint(pretrain(bars, dict(a='place', b='target'), tmp_path/'two', replace(recipe, epochs=1), progress=False)).label_map) == {'a','b'}
    model = transfer(folder, bars, 'target', how='readout')
    assert evaluate(model, bars, 'target').n == 200
    for f in (lambda o: pretrain(bars, o, tmp_path/'no', recipe), lambda o: transfer(folder, bars, o), lambda o: evaluate(model, bars, o)):
        with pytest.raises(ValueError, match="no level of .* 'plaec'; did you mean 'place'"): f('plaec')
