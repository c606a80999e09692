"Backbones, checkpoints, pretraining and the four transfers, on images that are easy to learn."
import json, warnings
from dataclasses import asdict, replace
import numpy as np, pytest, torch
from granularity_nb.data.source import Source, Split
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.training.backbone import BackboneError, Checkpoint, Classifier, create_backbone, load_checkpoint, save_checkpoint
from granularity_nb.training.evaluate import evaluate
from granularity_nb.training.pretrain import pretrain
from granularity_nb.training.recipe import DivergenceError, Recipe, TrainingError, transfer_names
from granularity_nb.training.transfer import transfer, tune

recipe = Recipe(epochs=4, bs=32, lr=.05)


@pytest.fixture(scope='module')
def bars():
    "Four leaves: a bright bar at one of four places, plus noise. Left and right bars are vertical, top and bottom horizontal."
    h = Hierarchy.from_edges([('left','vertical'), ('right','vertical'), ('bottom','horizontal'), ('top','horizontal'), ('vertical','bar'), ('horizontal','bar')])
    def split(n, seed):
        rng = np.random.default_rng(seed)
        leaf = rng.integers(0, 4, n)
        x = rng.integers(0, 90, (n, 16, 16))
        for i,k in enumerate(leaf):
            place = {'left': np.s_[:,2:5], 'right': np.s_[:,11:14], 'top': np.s_[2:5], 'bottom': np.s_[11:14]}[h.leaves[k]]
            x[i][place] += 150
        return Split(x.astype(np.uint8), leaf)
    target = h.level(1)
    return Source('bars', h, dict(train=split(256, 0), valid=split(64, 1), test=split(200, 2)), target, dict(place=h.level(0), direction=target))


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
