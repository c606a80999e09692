"A recipe's settings, its identity, and that every figure of the ready ones has a source."
import json, subprocess, sys
from dataclasses import asdict, fields, replace
from fractions import Fraction
import numpy as np, pytest
from hypothesis import given, strategies as st
from granularity_nb.study.plan import Plan, plan_from_dict, preset
from granularity_nb.training.recipe import Recipe, TrainingError, heads, keeps_head, optimizers, precisions, recipe_presets, schedules, transfer_names, typed, without_defaults

positive,share = st.floats(1e-6, 10), st.floats(0, .99)
recipes = st.builds(Recipe, epochs=st.integers(1, 300), bs=st.integers(2, 4096), lr=positive, wd=share, momentum=share, optimizer=st.sampled_from(optimizers),
                    schedule=st.sampled_from(schedules), warmup=st.floats(.01, .99), decay_norm_bias=st.booleans(), mixup=share, cutmix=share, ema=share, clip=share,
                    accumulate=st.integers(1, 8), precision=st.sampled_from(precisions), channels_last=st.booleans(), compile=st.booleans(), prior_bias=st.booleans(),
                    head=st.sampled_from(heads), layer_decay=st.floats(.01, 1))


@given(recipes)
def test_both_forms_come_back(r):
    assert Recipe.from_dict(asdict(r)) == r and Recipe.from_dict(r.to_dict()) == r
    assert without_defaults(asdict(r)) == r.to_dict()


def test_defaults_are_those_of_the_first_release():
    assert Recipe().to_dict() == dict(backbone='small', epochs=8, bs=64, lr=.1, wd=5e-4, momentum=.9, optimizer='sgd', augment='none', label_smoothing=0.)


@given(recipes, recipes)
def test_different_recipes_are_never_taken_for_one_another(a, b): assert (a.to_dict() == b.to_dict()) == (a == b)


def test_a_plan_that_spells_out_defaults_is_the_same_plan():
    long = {n: {k: asdict(Recipe.from_dict(r)) for k,r in arms.items()} for n,arms in preset().recipes.items()}
    assert replace(preset(), recipes=long).digest == preset().digest == plan_from_dict(preset().to_dict()).digest
    ema = {'plain': {k: r | dict(ema=.99) for k,r in preset().recipes['plain'].items()}}
    assert replace(preset(), recipes=ema).digest != preset().digest
    assert Plan().digest == Plan(recipes={'plain': dict(pretrain=asdict(Recipe(epochs=8)), transfer=asdict(Recipe(epochs=6)))}).digest


@pytest.mark.parametrize('bad', [dict(optimizer='adam'), dict(schedule='linear'), dict(precision='int8'), dict(epochs=0), dict(bs=1), dict(lr=0), dict(lr=float('nan')), dict(wd=-1),
                                 dict(momentum=1), dict(label_smoothing=1), dict(warmup=1), dict(warmup=0), dict(mixup=-1), dict(cutmix=float('inf')), dict(ema=1), dict(clip=-1),
                                 dict(accumulate=0), dict(accumulate=1.5), dict(head='mean'), dict(layer_decay=0), dict(layer_decay=1.1), dict(layer_decay=float('nan'))], ids=str)
def test_impossible_settings_are_named(bad):
    with pytest.raises(TrainingError, match=next(iter(bad))): Recipe(**bad)


@pytest.mark.parametrize('given,plain', [(dict(lr=1), dict(lr=1.)), (dict(lr=np.float64(.5)), dict(lr=.5)), (dict(epochs=8.), dict(epochs=8)), (dict(bs=np.int64(32)), dict(bs=32)),
                                         (dict(compile=np.True_), dict(compile=True)), (dict(compile=1), dict(compile=True)), (dict(augment=np.str_('shift:2')), dict(augment='shift:2')), (dict(wd=0, ema=0), dict(wd=0., ema=0.))], ids=str)
def test_equal_settings_have_one_type_and_one_identity(given, plain):
    a,b = Recipe(**given),Recipe(**plain)
    assert a == b and {f.name: type(getattr(a, f.name)) for f in fields(a)} == {f.name: type(getattr(b, f.name)) for f in fields(b)}
    assert json.dumps(a.to_dict()) == json.dumps(b.to_dict()) == json.dumps(without_defaults(asdict(a) | given))
    assert all(type(getattr(a, f.name)) is type(f.default) for f in fields(a))


@pytest.mark.parametrize('bad', [dict(epochs=2.5), dict(bs=16.5), dict(lr='1e-3'), dict(epochs='8'), dict(lr=True), dict(epochs=True), dict(bs=None), dict(compile='no'), dict(compile=2), dict(backbone=3),
                                 dict(augment=None), dict(epochs=float('inf')), dict(epochs=float('nan')), dict(wd=float('inf')), dict(lr=[.1]), dict(lr=np.array([.1])), dict(lr=1j), dict(accumulate='x')], ids=str)
def test_settings_of_another_type_are_named(bad):
    with pytest.raises(TrainingError, match=f'^recipe: {next(iter(bad))} must be'): Recipe(**bad)
    with pytest.raises(TrainingError, match=f'^recipe: {next(iter(bad))} must be'): Recipe.from_dict(bad)


@pytest.mark.parametrize('bad', [dict(epochs=10**400), dict(epochs=-10**5000), dict(bs=1e300), dict(lr=10**400), dict(wd=Fraction(10**400)), dict(accumulate=2**63), dict(compile=10**5000), dict(augment=10**5000)], ids=lambda o: next(iter(o)))
def test_numbers_that_no_counter_holds_are_named(bad):
    with pytest.raises(TrainingError, match=f'^recipe: {next(iter(bad))} must be .*, not one beyond .2.63$'): Recipe(**bad)
    assert without_defaults(bad)[next(iter(bad))] == next(iter(bad.values())) and Recipe(bs=2**40).bs == 2**40


def test_a_recipe_is_an_object():
    for bad in ([], 'sgd', None, 3):
        with pytest.raises(TrainingError, match='an object'): Recipe.from_dict(bad)


def test_the_error_of_a_type_is_the_callers_choice():
    with pytest.raises(KeyError, match='seeds must be a whole number'): typed('seeds', int, .5, KeyError)


@pytest.mark.parametrize('name', recipe_presets)
def test_every_figure_of_a_preset_has_a_source(name):
    for setting,(value,source) in recipe_presets[name].items():
        assert len(source) > 5, setting
        assert getattr(Recipe.preset(name), setting) == value
        assert setting in {f.name for f in fields(Recipe)}
    with pytest.raises(TrainingError, match='vit-b16-in21k'): Recipe.preset('vit')


def test_planning_needs_no_torch():
    code = 'import sys, granularity_nb.study.plan; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_which_transfers_keep_the_head():
    kept = {(how, head) for how in transfer_names for head in heads if keeps_head(how, Recipe(head=head))}
    assert kept == {(how, head) for how in ('readout','marginal') for head in heads} | {('finetune','subclass-mean')}
