"What can be known before the first run is refused before it, in words that name the culprit; equal plans are equal in every way."
import json, os, warnings
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from granularity_nb.data.source import Source, Split, register
from granularity_nb.labels.hierarchy import Hierarchy, LabelMap
from granularity_nb.study import plan as module
from granularity_nb.study.plan import Plan, StudyError, check_device, checked, fitting, n_seen, plan_from_dict, preset, runs
from granularity_nb.training.recipe import Recipe

PATHS = {'beagle': ['dog'], 'poodle': ['dog'], 'persian': ['cat'], 'tabby': ['cat']}
EVEN = [0,1,2,3]*5


def _recipes(**kw): return {'plain': dict(pretrain=asdict(Recipe(epochs=1, **kw)), transfer=asdict(Recipe(epochs=1)))}


def _set(name='pets', paths=PATHS, target=None, levels=None, shape=(8,8), **splits):
    "Register a data set of noise; splits are lists of leaf numbers."
    h = Hierarchy.from_paths(paths)
    def make(target=target):
        parts = {k: Split(np.zeros((len(v), *(shape if k != 'odd' else (9,9))), np.uint8), np.array(v, int)) for k,v in splits.items()}
        ls = {k: f(h) for k,f in (levels or dict(leaf=lambda h: h.level(0), kind=lambda h: h.level(1))).items()}
        return Source(name, h, parts, (target or (lambda h: h.level(1)))(h), ls)
    register(name)(make)
    return Plan(data=name, maps=('leaf',), transfers=('readout','finetune'), seeds=(0,), recipes=_recipes())


EVERY = dict(train=EVEN, valid=EVEN, test=EVEN)


# ---- nothing to tell apart

@pytest.mark.parametrize('splits,change,word', [
    (dict(EVERY, train=[0,2]*5), {}, "all training images of 'pets' are of the one target class 'dog'.*choose a finer target, as in --set target='leaf'"),
    (dict(EVERY, train=[0]*5), {}, "one target class 'dog'.*give the data set a second class"),
    (dict(EVERY, test=[1,3]*5), {}, "all images of split 'test' of 'pets' are of the one target class 'cat'"),
    (dict(EVERY, test=[]), {}, "split 'test' of 'pets' holds no images"),
    (dict(EVERY, train=[]), {}, "split 'train' of 'pets' holds no images"),
    (dict(EVERY, valid=[]), dict(transfers=('probe',)), "split 'valid' of 'pets' holds no images; probes are chosen on 'valid'"),
    (dict(EVERY, valid=[]), dict(lrs=dict(direct=[.1])), "split 'valid' of 'pets' holds no images; learning rates are chosen on 'valid'"),
    (dict(train=EVEN, test=EVEN), dict(transfers=('probe',)), "no split 'valid'.*probes are chosen"),
    (EVERY, dict(splits=('shifted',)), "'pets' has no split 'shifted'; it has: train, valid, test"),
    (EVERY, dict(maps=('leaf','random-splits:1'), transfers=('finetune',)), "random-splits:1"),
    (EVERY, dict(maps=('depth:0','leaf')), "label map 'depth:0' has one class among the training images"),
    (EVERY, dict(maps=('kmeans-across:1',), transfers=('probe',)), "label map 'kmeans-across:1' has one class"),
])
def test_a_study_without_anything_to_tell_apart_is_refused(splits, change, word):
    plan = replace(_set(paths={k: ['animal', *v] for k,v in PATHS.items()}, **splits), **change)
    with pytest.raises(StudyError, match=word): runs(plan)


def test_classes_that_training_never_has_are_told_or_refused():
    six = PATHS | {'adder': ['snake'], 'viper': ['snake']}
    names = sorted(six, key=list(Hierarchy.from_paths(six).leaves).index)
    snakes,others = ([i for i,o in enumerate(names) if (six[o] == ['snake']) == s] for s in (True, False))
    with pytest.warns(UserWarning, match=r"1 of 3 target classes in split 'test' of 'pets' have no training image \('snake'\)"): runs(_set(paths=six, train=others*3, valid=others, test=others+snakes))
    with pytest.raises(StudyError, match="no training image of 'pets' has a target class of split 'test' \\('snake'\\)"): runs(_set(paths=six, train=others*3, valid=others, test=snakes))


def test_one_class_is_refused_by_the_ready_plan_of_a_folder_too(tmp_path, monkeypatch):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    (tmp_path/'pics'/'cat').mkdir(parents=True)
    for i in range(40): Image.fromarray(np.full((8,8,3), i, np.uint8)).save(tmp_path/'pics'/'cat'/f'{i}.png')
    with pytest.raises(StudyError, match="one target class 'cat'.*give the data set a second class"): preset('folder', 'quick', dict(root=str(tmp_path/'pics')))


def test_a_ready_plan_has_no_level_twice_and_none_of_one_class():
    tall = {k: ['thing','animal', *v] for k,v in PATHS.items()}
    levels = dict(leaf=lambda h: h.level(0), breed=lambda h: h.level(0), kind=lambda h: h.level(1), all=lambda h: h.depth(0))
    _set(paths=tall, levels=levels, **EVERY)
    p = preset('pets', 'full')
    assert p.maps == ('leaf','kind') and p.transfers == ('readout','probe','finetune') and p.splits == ('test',) and runs(p)
    _set(paths=tall, levels=levels, train=EVEN, test=EVEN)
    assert preset('pets', 'full').transfers == ('readout','finetune'), 'a probe is chosen on validation images'


# ---- the same twice

def test_one_label_map_under_two_names_is_refused_by_both():
    plan = replace(_set(**EVERY), maps=('leaf','kind','level:0'))
    with pytest.raises(StudyError, match="label maps 'leaf' and 'level:0' are the same classes of 'pets' under two names"): runs(plan)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(runs(replace(plan, maps=('leaf','kind')))) == 3
    with pytest.warns(UserWarning, match="'leaf' and 'kind' differ in leaves without a training image only"): runs(replace(_set(train=[0,1]*5, valid=EVEN, test=EVEN), maps=('leaf','kind')))


def test_one_number_of_drawn_classes_under_two_names_is_refused():
    plan = replace(_set(**EVERY), transfers=('finetune',))
    for a,b in (('random-splits:leaf','random-splits:4'), ('random-splits:5','random-splits:05'), ('kmeans-within:4','kmeans-within:leaf'), ('kmeans-across:9','kmeans-across:09')):
        with pytest.raises(StudyError, match=f"'{a}' and '{b}' are the same number of classes"): runs(replace(plan, maps=('kind',a,b)))
    assert len(runs(replace(plan, maps=('random-splits:5','random-splits:6','kmeans-within:5','kmeans-across:5')))) == 5


def test_a_class_without_a_leaf_keeps_no_head():
    more = lambda k: lambda h: LabelMap(h.leaves, [*h.level(k).vocab, 'unicorn'], h.level(k).codes)
    plan = replace(_set(levels=dict(leaf=more(0)), **EVERY), transfers=('readout','finetune'))
    with pytest.warns(UserWarning, match="label map 'leaf' has a class without a leaf .'unicorn'.: readout left out"): assert runs(plan)[1].transfers == ('finetune',)
    plan = replace(_set(target=more(1), **EVERY), transfers=('marginal','finetune'))
    with pytest.raises(StudyError, match="target of 'pets' has a class without a leaf, 'unicorn'"): runs(plan)
    assert len(runs(replace(plan, transfers=('readout',)))) == 2


def test_classes_that_share_their_leaves_are_compared_as_sets_of_leaves():
    h = Hierarchy.from_edges([('dog','pet'), ('dog','canine'), ('cat','pet'), ('wolf','canine'), ('pet','all'), ('canine','all')])
    seen = np.ones(3, bool)
    a,b = h.level(1),LabelMap(h.leaves, ['x','y'], (np.array([0,1,3,4]), np.array([0,0,1,1])))
    assert h.leaves == ('cat','dog','wolf') and a.multi and module._groups(a, seen) == module._groups(b, seen) != module._groups(h.level(0), seen)


# ---- names, networks, images

@pytest.mark.parametrize('recipe,word', [(dict(backbone='resnet'), "no backbone 'resnet'"), (dict(backbone='timm:resnt18'), 'timm:resnt18'), (dict(backbone='hub:resnet18'), 'unknown collection'), (dict(backbone='resnet18@9'), '@'),
                                         (dict(augment='flop'), "unknown augmentation 'flop'"), (dict(augment='crop:x'), 'crop:x'), (dict(backbone='timm:vit_tiny_patch16_224'), "cannot take images of 8×8 pixels and 1 channel"),
                                         (dict(objective='hyx'), 'hyx'), (dict(objective='sigmoid'), 'sigmoid'), (dict(head='probe'), "head='probe' is for fine-tuning"), (dict(layer_decay=.9), 'layer_decay=0.9 is for fine-tuning')])
def test_names_of_a_recipe_are_checked_before_the_first_run(recipe, word):
    with pytest.raises(StudyError, match=word): runs(replace(_set(**EVERY), recipes=_recipes(**recipe)))


def test_objectives_are_tried_on_each_label_map_before_the_first_run():
    plan = replace(_set(**EVERY), recipes=_recipes(objective='hxe:0.3'))
    assert runs(plan)
    with pytest.raises(StudyError, match="recipe 'plain', label map 'random-splits:5': class .* is no node"): runs(replace(plan, maps=('random-splits:5',), transfers=('finetune',)))
    with pytest.raises(StudyError, match="label map 'kmeans-within:5': objective 'hxe:0.3' needs the hierarchy"): runs(replace(plan, maps=('kmeans-within:5',)))
    semantic = {'a': dict(pretrain=dict(epochs=1), transfer=dict(epochs=1, objective='semantic'))}
    with pytest.raises(StudyError, match="'transfer': objective 'semantic' has other outputs"): runs(replace(_set(paths={k: ['animal', *v] for k,v in PATHS.items()}, target=lambda h: h.level(0), **EVERY), recipes=semantic))


def test_a_head_with_other_outputs_is_not_read_out():
    arms = dict(pretrain=dict(epochs=1, objective='semantic'), direct=dict(epochs=2), transfer=dict(epochs=1))
    plan = replace(_set(paths={k: ['animal', *v] for k,v in PATHS.items()}, **EVERY), recipes={'a': arms})
    with pytest.warns(UserWarning, match="objective 'semantic' has other outputs than the classes: readout left out"): assert [r.transfers for r in runs(plan)] == [('direct',), ('finetune',)]
    with pytest.raises(StudyError, match="other outputs than the classes, so that readout cannot be done"): runs(replace(plan, transfers=('readout',)))


def test_names_are_checked_before_a_source_is_opened():
    @register('never')
    def never(root=None): raise AssertionError('opened')
    with pytest.raises(StudyError, match="unknown augmentation 'flop'"): runs(Plan(data='never', recipes=_recipes(augment='flop')))


def test_labels_are_checked_before_an_image_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    for c in ('x/a','x/b','y/c','y/d'):
        (tmp_path/'pics'/c).mkdir(parents=True)
        for i in range(12): (tmp_path/'pics'/c/f'{i}.png').write_bytes(b'no image at all')
    plan = Plan(data='folder', data_args=dict(root=tmp_path/'pics', size=8), maps=('leaf','genus'), transfers=('readout',), seeds=(0,), recipes=_recipes())
    with pytest.raises(StudyError, match="no level 'genus'"): runs(plan)
    with pytest.raises(ValueError, match='image'): runs(replace(plan, maps=('leaf',)))


def test_images_that_are_only_listed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    rng = np.random.default_rng(0)
    for c in ('x/a','x/b','y/c','y/d'):
        (tmp_path/'pics'/c).mkdir(parents=True)
        for i in range(12): Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).save(tmp_path/'pics'/c/f'{i}.bmp')
    folder = Plan(data='folder', data_args=dict(root=tmp_path/'pics'), maps=('leaf',), transfers=('finetune',), seeds=(0,), recipes=_recipes())
    with pytest.raises(StudyError, match="images of 'folder' are only listed, not decoded: open it with a size"): runs(folder)
    sized = replace(folder, data_args=folder.data_args | dict(size=8))
    assert runs(sized)
    with pytest.raises(StudyError, match="only listed.*--to-set"): runs(replace(sized, to='folder', to_args=folder.data_args))
    grey = _set(shape=(8,8), **EVERY)
    with pytest.raises(StudyError, match="images of 'pets' have 1 channel, those of 'folder' 3"): runs(replace(grey, transfers=('finetune',), to='folder', to_args=sized.data_args))
    glyphs = Plan(data_args=dict(n_train=100, n_valid=50, n_test=50, max_chars=10), maps=('script',), transfers=('finetune',), seeds=(0,), recipes=_recipes())
    with pytest.raises(StudyError, match="images of 'glyphs' have 1 channel, those of 'folder' 3"): runs(replace(glyphs, to='folder', to_args=sized.data_args))


def test_sizes_of_two_data_sets_are_compared():
    a,b = _set('small-pets', shape=(16,16), **EVERY),_set('large-pets', shape=(24,24), **EVERY)
    plan = replace(a, transfers=('finetune',), to='large-pets')
    with pytest.warns(UserWarning, match="'small-pets' have 16×16 pixels, those of 'large-pets' 24×24"): runs(plan)
    with pytest.raises(StudyError, match="images of 'large-pets': .*cannot take images of 24×24"): runs(replace(plan, recipes=_recipes(backbone='timm:vit_tiny_patch16_224@16')))


def test_nothing_is_drawn_to_plan_for_our_own_backbone(monkeypatch):
    from granularity_nb.data import glyphs
    monkeypatch.setattr(glyphs, '_images', lambda *args: pytest.fail('images were drawn'))
    assert runs(Plan(data_args=dict(n_train=200, n_valid=50, n_test=50, max_chars=10), seeds=(0,)))


def test_devices_and_precisions_are_checked():
    plan = Plan()
    check_device(plan)
    check_device(replace(plan, recipes=_recipes(precision='bf16')))
    for bad in ('gpu','cuda:99','meta','cpu:x'):
        with pytest.raises(StudyError, match=f"device '{bad}' cannot be used"): check_device(replace(plan, device=bad))


def test_rates_for_transfers_that_have_none_are_refused():
    plan = replace(_set(**EVERY), transfers=('readout','probe'), lrs=dict(transfer=[.1,.3]))
    with pytest.raises(StudyError, match="lrs has rates for 'transfer', but readout and probe have none"): runs(plan)
    assert runs(replace(plan, lrs=dict(direct=[.1,.3])))


# ---- chosen and judged

def test_it_is_told_when_what_is_chosen_is_judged_by_the_same_images():
    plan = _set(train=EVEN, valid=EVEN)
    with pytest.warns(UserWarning, match="measured on 'valid' alone, where the best label map is chosen.*give the data set a split 'test'"): runs(replace(plan, splits=('valid',)))
    plan = _set(**EVERY)
    with pytest.warns(UserWarning, match="where learning rates and the best label map are chosen.*measure on 'test'"): runs(replace(plan, splits=('valid',), lrs=dict(direct=[.1])))
    with pytest.warns(UserWarning, match="learning rates are chosen on 'valid', so that errors measured there"): runs(replace(plan, splits=('valid','test'), lrs=dict(direct=[.1])))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        runs(replace(plan, lrs=dict(direct=[.1])))
        runs(replace(plan, splits=('valid','test')))


# ---- one plan, one identity

SAME = [dict(seeds=(0,1)), dict(seeds=(0.,1.)), dict(seeds=np.array([0,1])), dict(seeds=[np.int8(0), np.float32(1)], threads=1.), dict(threads=np.int64(1), redraw=0), dict(redraw=np.False_),
        dict(lrs={}), dict(recipes={'plain': dict(pretrain=Recipe(epochs=8), transfer=Recipe(epochs=6))}),
        dict(recipes={'plain': dict(pretrain=asdict(Recipe(epochs=8)) | dict(wd=np.float64(5e-4), epochs=8.), transfer=asdict(Recipe(epochs=6)) | dict(label_smoothing=0))})]


@pytest.mark.parametrize('same', SAME)
def test_equal_plans_have_equal_texts_and_digests(same):
    a,b = Plan(),Plan(**same)
    assert a == b and hash(a) == hash(b) and a.digest == b.digest and json.dumps(a.to_dict()) == json.dumps(b.to_dict())
    assert plan_from_dict(json.loads(json.dumps(b.to_dict()))) == a


def test_equal_rates_and_arguments_are_one_plan():
    a = Plan(lrs=dict(direct=(1, 3)), data_args=dict(steps=[['subsample', dict(n=5)]], scripts=['Latin','Greek']))
    b = Plan(lrs=dict(direct=np.array([1., 3.])), data_args=dict(scripts=np.array(['Latin','Greek']), steps=(('subsample', dict(n=np.int32(5))),)))
    assert a == b and a.digest == b.digest and a.lrs == dict(direct=[1., 3.]) and all(type(o) is float for o in a.lrs['direct'])
    share,number = Plan(data_args=dict(valid=1.)),Plan(data_args=dict(valid=1)) # the share of all images, and one image
    assert share != number and share.digest != number.digest


@pytest.mark.parametrize('bad,word', [(dict(seeds=(1.5,)), '1.5'), (dict(seeds=('1',)), "'1'"), (dict(seeds=(2**32,)), '4294967296'), (dict(threads='2'), "threads.*'2'"), (dict(threads=True), 'True'), (dict(redraw='no'), "redraw.*'no'"),
                                      (dict(data=3), 'data.*3'), (dict(to=3), 'to.*3'), (dict(device=0), 'device.*0'), (dict(lrs=[.1]), 'lrs must be an object'), (dict(lrs=dict(direct=['1e-3'])), "'1e-3'"),
                                      (dict(lrs=dict(direct=.1)), 'must be a list'), (dict(recipes=[1]), 'recipes must be an object'), (dict(recipes={'a': 3}), "recipe 'a' must be an object"),
                                      (dict(recipes={'a': dict(pretrain=dict(epochs=2.5), transfer=dict(epochs=1))}), "recipe 'a'.*epochs.*2.5"), (dict(recipes={'a': dict(pretrain=3, transfer=dict(epochs=1))}), "recipe 'a'.*3"),
                                      (dict(data_args=dict(rate=float('nan'))), 'data_args.*JSON'), (dict(lrs=dict(direct=[True])), 'True')])
def test_settings_of_another_type_are_named(bad, word):
    with pytest.raises(StudyError, match=word): checked(Plan(**bad))


def test_a_folder_is_kept_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    p = Plan(data='folder', data_args=dict(root='pics', cache='~/c'), to='folder', to_args=dict(root=Path('more')))
    assert p.data_args == dict(root=str(tmp_path/'pics'), cache=str(tmp_path/'home'/'c')) and p.to_args['root'] == str(tmp_path/'more')
    assert p.digest == replace(p, data_args=dict(root='elsewhere')).digest, 'where the images lie is no part of the identity'
    assert Plan(data='folder', data_args=dict(root='s3://bucket/x')).data_args['root'] == 's3://bucket/x'


def test_names_in_other_bytes_have_an_identity():
    assert Plan(data='folder', data_args=dict(target=os.fsdecode(b'a\xff'))).digest != Plan(data='folder', data_args=dict(target='a')).digest


# ---- large plans

def test_seen_classes_are_counted_by_way_of_the_leaves():
    h = Hierarchy.from_edges([('dog','pet'), ('dog','canine'), ('cat','pet'), ('wolf','canine'), ('pet','all'), ('canine','all')])
    s = Source('pets', h, dict(train=Split(np.zeros((4,8,8), np.uint8), [0,0,0,0])), h.level(0))
    assert [n_seen(s, m) for m in (h.level(0), h.level(1), LabelMap.identity(s.ids('train')))] == [1, 1, 4]
    s = s.but(splits=dict(train=Split(np.zeros((4,8,8), np.uint8), [1,1,2,2])))
    assert [n_seen(s, m) for m in (h.level(0), h.level(1))] == [2, 2]


def test_counting_classes_never_takes_a_row_for_each_image(monkeypatch):
    n,h = 2_000_000,Hierarchy.from_paths({f'{i:04}': [f'g{i%50:02}'] for i in range(1000)})
    s = Source('many', h, dict(train=Split(np.broadcast_to(np.uint8(0), (n,1,1)), np.arange(n)%1000)), h.depth(0))
    multi = LabelMap(h.leaves, [str(i) for i in range(1000)], (np.arange(0, 2001, 2), np.stack([np.arange(1000), (np.arange(1000)+1)%1000], 1).ravel()))
    monkeypatch.setattr(LabelMap, 'encode', lambda *args, **kw: pytest.fail('images × classes'))
    assert n_seen(s, multi) == 1000 and n_seen(s, h.depth(0)) == 50


def test_a_plan_of_many_seeds_opens_and_cuts_once(monkeypatch):
    plan = replace(_set(**EVERY), maps=('leaf','kind'), seeds=range(3000))
    count = dict(opened=0, cut=0, hashed=0)
    def counting(name, f):
        def g(*args, **kw):
            count[name] += 1
            return f(*args, **kw)
        return g
    for name,f in (('opened','open_source'), ('cut','label_map'), ('hashed','_data_digest')): monkeypatch.setattr(module, f, counting(name, getattr(module, f)))
    rs = runs(plan)
    assert len(rs) == 9000 and count['opened'] == 1 and count['hashed'] == 1 and count['cut'] <= 4


def test_validation_images_of_one_class_choose_nothing():
    one = _set(**EVERY | dict(valid=[0,2]*5))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert runs(one)
    for more in (dict(lrs=dict(direct=[.1,.3])), dict(transfers=('probe',))):
        with pytest.warns(UserWarning, match="all images of split 'valid' of 'pets' are of the one target class 'dog', so that what is chosen there is chosen badly; give 'valid' images of a second class"): runs(replace(one, **more))


def test_errors_of_what_was_learned_are_told():
    with pytest.warns(UserWarning, match="errors on 'train' are those of images of 'pets' that were learned"): runs(replace(_set(**EVERY), splits=('train','test')))


@pytest.mark.parametrize('spec,itself', [('random-splits:2','the target'), ('random-splits:kind','the target'), ('kmeans-within:2','the target'), ('random-splits:20',"'image'"), ('kmeans-within:20',"'image'"), ('kmeans-across:20',"'image'")])
def test_a_control_that_is_no_other_is_refused(spec, itself):
    plan = replace(_set(**EVERY), transfers=('probe',))
    with pytest.raises(StudyError, match=f"{spec}.* {itself} itself, and no control; take (more|fewer) classes, or leave it out"): runs(replace(plan, maps=('leaf',spec)))
    assert runs(replace(plan, maps=('leaf','random-splits:3','kmeans-across:2','kmeans-within:19')))


@pytest.mark.parametrize('change', [dict(data_args=dict(seed=1)), dict(data_args=dict(seed=-1)), dict(data_args=dict(steps=[['subsample', dict(n=10, seed=3)]])), dict(to='digits', to_args=dict(seed=3), transfers=('probe',))])
def test_a_seed_that_a_repetition_draws_itself_has_no_effect(change):
    small,few = dict(n_train=60, n_valid=40, n_test=40, max_chars=5),[['subsample', dict(n=50)]]
    plan = Plan(data_args=small, maps=('script',), transfers=('finetune',), seeds=(0,), redraw=True)
    for right in (plan, replace(plan, data_args=Source.open('glyphs', **small).args), replace(plan, redraw=False, data_args=dict(seed=3)), replace(plan, data_args=dict(seed=3, steps=few))):
        assert not module.unused_seed(right), 'where steps draw, the seed of the data set stays'
    with pytest.warns(UserWarning) as told: assert runs(replace(plan, **change | dict(data_args=small | change.get('data_args', {})))), 'a stored plan is gone on with'
    assert f"a seed of {change.get('to', 'glyphs')!r} has no effect" in str(told[0].message)


def test_maps_that_fit_no_more_are_left_out_and_told():
    plan = replace(_set(paths=TREE, levels=dict(leaf=lambda h: h.level(0), breed=lambda h: h.level(0), kind=lambda h: h.level(1), all=lambda h: h.depth(0)), **EVERY), maps=('leaf','breed','kind','all','random-groups:leaf','random-splits:3','random-splits:99'))
    with pytest.warns(UserWarning) as told: left = fitting(plan)
    assert left.maps == ('leaf','kind','random-splits:3')
    assert [str(o.message).split("'")[1] for o in told] == ['breed','all','random-groups:leaf','random-splits:99'] and "'leaf' and 'breed' are the same classes" in str(told[0].message)
    assert runs(left) and fitting(replace(plan, maps=('all',))).maps == ('all',), 'what is left of nothing is refused later'


# ---- and what is planned can be run

TREE = {k: ['animal', *v] for k,v in PATHS.items()}


@pytest.mark.parametrize('change', [
    dict(maps=('kmeans-within:5',), transfers=('probe','finetune'), lrs=dict(direct=[.1,.2], transfer=[.1])),
    dict(maps=('leaf','image'), transfers=('readout','marginal')),
    dict(maps=('leaf',), transfers=('readout','finetune'), recipes={'a': dict(pretrain=dict(epochs=1, bs=8, objective='semantic'), direct=dict(epochs=2, bs=8), transfer=dict(epochs=1, bs=8, head='probe'))}),
    dict(maps=('random-splits:6',), transfers=('probe',), to='larger'),
    dict(data='narrow', transfers=('probe','finetune'), lrs=dict(direct=[.1,.2], transfer=[.1,.2])),
])
def test_what_is_planned_runs_to_its_end(change, tmp_path):
    from granularity_nb.study.run import collect, execute
    _set('larger', paths=TREE, shape=(12,12), **EVERY)
    _set('narrow', paths=TREE, **EVERY | dict(valid=[0]))
    plan = replace(_set(paths=TREE, **EVERY), recipes={'a': dict(pretrain=dict(epochs=1, bs=8), transfer=dict(epochs=1, bs=8))})
    plan = replace(plan, **change)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        rs = runs(plan)
        for r in rs: execute(plan, r, tmp_path)
        assert len(collect(tmp_path, rs)) == sum(len(r.transfers) for r in rs)*2, 'on the test and the validation images'


def test_a_study_of_nothing_but_the_target_says_what_is_finer():
    plan = replace(_set(name='flat', paths={'cat': ['pet'], 'dog': ['pet'], 'cow': ['farm']}, target=lambda h: h.level(0), levels=dict(leaf=lambda h: h.level(0)), **EVERY | {k: [0,1,2]*5 for k in EVERY}), transfers=('finetune',))
    with pytest.warns(UserWarning, match="only label map is the target itself.*'flat' has no level finer than its target.*image .*random-splits:N.*kmeans-within:N.*table"): runs(plan)
    for maps in (('random-splits:4',), ('leaf','image')):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            runs(replace(plan, maps=maps))
    plan = replace(_set(**EVERY), maps=('target',))
    with pytest.warns(UserWarning, match='only label map is the target itself.*there are: leaf, kind'): assert [o.map for o in runs(plan)] == ['direct','target']
    with pytest.raises(StudyError, match="'target' and 'kind' are the same classes"): runs(replace(plan, maps=('target','kind')))


def test_a_target_of_ones_own_can_be_pretrained_on(tmp_path):
    for k in 'abc':
        for o in range(12): (tmp_path/'f'/k).mkdir(parents=True, exist_ok=True), Image.fromarray(np.full((8,8,3), 9*o, np.uint8)).save(tmp_path/'f'/k/f'{o}.png')
    args = dict(root=str(tmp_path/'f'), target=dict(a='x', b='x', c='y'), valid=6, test=6, size=8)
    plan = Plan(data='folder', data_args=args, maps=('leaf','target'), transfers=('readout',), seeds=(0,), recipes=_recipes())
    assert [o.map for o in runs(plan)] == ['direct','leaf','target'] and runs(plan)[0].config['digest'] == runs(plan)[2].config['digest']
    assert preset('folder', 'full', args).maps == ('leaf','target')
