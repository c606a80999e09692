"The stored results on photographs are those of the presets, whole, of a known origin, and say nothing of any machine."
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest
from granularity_nb.study.plan import plan_from_dict, preset

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
STORED = {'tiny-imagenet-full': ('full', {}), 'tiny-imagenet-seeds': ('full', dict(maps=('leaf',), seeds=(3,4)))}
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


def test_what_was_collected_is_of_these_runs():
    d = RESULTS/'tiny-imagenet-full'
    table = pd.concat([pd.read_parquet(RESULTS/o/'results.parquet') for o in ('tiny-imagenet-full','tiny-imagenet-seeds')])
    with np.load(d/'predictions.npz', allow_pickle=False) as z: bits = {k: z[k] for k in z.files}
    arms = [k for k in bits if not k.endswith('log_p')]
    assert len(arms) == 5*len(['direct','readout','probe','finetune','marginal'])
    for k in arms:
        name,how,seed = k.split('/')
        error = table[(table.label_map == name) & (table.transfer == how) & (table.seed == int(seed))].error.item()
        assert np.unpackbits(bits[k])[:10_000].mean() == pytest.approx(error), k
        assert len(bits[k+'/log_p']) == 10_000
    again = pd.read_parquet(d/'again.parquet').merge(table, on=['run','transfer','seed','split'], suffixes=('_again',''))
    assert len(again) >= 2 and (again.error_again == again.error).all() and (again.nll_again == again.nll).all(), 'done again, another result'
