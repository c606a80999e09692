"The stored results on photographs are those of the presets, whole, of a known origin, and say nothing of any machine."
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest
from granularity_nb.study.plan import plan_from_dict, preset

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
STORED = {f'tiny-imagenet-{o}': (o, {}) for o in ('full','more','images-5000','images-50000','images-95000','epochs-4','epochs-20','images-5000-epochs-40')}
STORED |= {f'tiny-imagenet-{o}-seeds': (o, dict(seeds=(3,4))) for o in ('full','more')}
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason='the stored results are not part of the installed package')


@pytest.fixture(params=STORED)
def stored(request):
    from dataclasses import replace
    d,(name,change) = RESULTS/request.param,STORED[request.param]
    return replace(preset('tiny-imagenet', name), **change), json.loads((d/'plan.json').read_text()), json.loads((d/'provenance.json').read_text()), pd.read_parquet(d/'results.parquet')


def test_the_plan_is_that_of_the_code(stored):
    mine,plan,_,_ = stored
    assert plan_from_dict(plan['plan']).digest == mine.digest == plan['digest']


def test_table_is_whole(stored):
    mine,plan,_,table = stored
    assert {(o['label_map'], o['seed'], o['id']) for o in plan['runs']} == set(zip(table.label_map, table.seed, table.run))
    assert {o['label_map'] for o in plan['runs']} == {'direct', *mine.maps} and set(table.seed) == set(mine.seeds)
    keeps = {'readout','marginal'} & set(mine.transfers)
    for name,g in table.groupby('label_map'):
        how = set(g.transfer)
        assert how == {'direct'} if name == 'direct' else how in (set(mine.transfers), set(mine.transfers)-keeps), name
        assert len(g) == len(how)*len(mine.seeds)
    assert table.error.between(0, 1).all() and (table.nll > 0).all() and (table.n == 10_000).all() and (table.top5_error < table.error).all()


def test_rates_come_from_the_plan(stored):
    mine,_,_,table = stored
    tuned = table[table.transfer.isin(['direct','finetune','marginal'])]
    assert tuned.lr.notna().all() and table.lr.isna().sum() == len(table)-len(tuned)
    for how,g in tuned.groupby('transfer'): assert set(g.lr) <= set(mine.lrs['direct' if how == 'direct' else 'transfer'])


def test_origin_is_known_and_names_no_machine(stored):
    _,plan,prov,_ = stored
    for o in (prov, *prov.get('earlier', [])): assert len(o['commit']) == 40 and 'study --data tiny-imagenet' in o['command'] and o['device'] and all(o['versions'].values())
    assert '/' not in plan['plan']['data_args']['root'] and '/tmp' not in json.dumps(prov)


def _table(*folders): return pd.concat([pd.read_parquet(RESULTS/o/'results.parquet') for o in folders])


def test_predictions_are_of_these_runs():
    table,transfers = _table('tiny-imagenet-full','tiny-imagenet-full-seeds'), ('direct','readout','probe','finetune','marginal')
    with np.load(RESULTS/'tiny-imagenet-full'/'predictions.npz', allow_pickle=False) as z: bits = {k: z[k] for k in z.files}
    arms = [k for k in bits if not k.endswith('log_p')]
    assert len(arms) == 5*len(transfers)
    for k in arms:
        name,how,seed = k.split('/')
        error = table[(table.label_map == name) & (table.transfer == how) & (table.seed == int(seed))].error.item()
        assert np.unpackbits(bits[k])[:10_000].mean() == pytest.approx(error), k
        assert len(bits[k+'/log_p']) == 10_000


def test_runs_that_were_done_again_are_equal():
    table,twice = _table('tiny-imagenet-full','tiny-imagenet-full-seeds'), _table('tiny-imagenet-more','tiny-imagenet-more-seeds').query("label_map == 'direct'")
    again = pd.concat([pd.read_parquet(RESULTS/'tiny-imagenet-full'/'again.parquet'), twice])
    both = again.merge(table, on=['run','transfer','seed','split'], suffixes=('_again',''))
    assert len(both) == len(again) > 5 and (both.error_again == both.error).all() and (both.nll_again == both.nll).all(), 'done again, another result'


def test_what_was_collected_covers_every_map_and_rate():
    d,table = RESULTS/'tiny-imagenet-full',_table(*(f'tiny-imagenet-{o}' for o in ('full','full-seeds','more','more-seeds'))).query("label_map != 'direct'")
    maps,tried = pd.read_parquet(d/'maps.parquet'),pd.read_parquet(d/'tried.parquet')
    assert set(zip(maps.label_map, maps.seed)) == set(zip(table.label_map, table.seed)) and len(maps) == len(table.run.unique())
    best = tried[tried.error.notna()].sort_values(['error','nll','lr']).drop_duplicates(['label_map','transfer','seed'])
    both = table[table.lr.notna()].merge(best, on=['label_map','transfer','seed'], suffixes=('','_best'))
    assert len(both) == table.lr.notna().sum() and (both.lr == both.lr_best).all()
