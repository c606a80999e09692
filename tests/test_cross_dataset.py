"Stored results of cross-dataset transfer must be those of the presets: the same plan, the same runs, a whole table, a known origin."
import json
from pathlib import Path
import pandas as pd, pytest
from granularity_nb.study.plan import open_source, open_target, plan_from_dict, preset, runs

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason='the stored results are not part of the installed package')


@pytest.fixture(params=['fonts','digits'], scope='module')
def stored(request):
    d = RESULTS/f'cross-{request.param}'
    p = preset('glyphs', request.param)
    return p, runs(p), json.loads((d/'plan.json').read_text()), json.loads((d/'provenance.json').read_text()), pd.read_parquet(d/'results.parquet')


def test_planning_again_gives_the_same_runs(stored):
    p,rs,plan,_,_ = stored
    assert plan_from_dict(plan['plan']) == p
    assert [r.id for r in rs] == [o['id'] for o in plan['runs']], 'data, label maps or recipes have changed since: run the study again'


def test_table_is_whole(stored):
    p,rs,_,_,table = stored
    expected = {(r.recipe, r.map, how, r.seed, s, r.id) for r in rs for how in r.transfers for s in p.splits}
    got = list(zip(table.recipe, table.label_map, table.transfer, table.seed, table.split, table.run))
    assert set(got) == expected and len(got) == len(expected)
    assert table.error.between(0, 1).all() and (table.nll > 0).all() and table.seed.nunique() >= 5


def test_every_arm_chose_its_rate_among_those_of_the_plan(stored):
    p,_,_,_,table = stored
    tuned = table[table.transfer != 'probe']
    assert len(p.lrs['direct']) >= 3 and len(p.lrs['transfer']) >= 3
    for how,part in tuned.groupby('transfer'): assert set(part.lr) <= set(p.lrs['direct' if how == 'direct' else 'transfer'])


def test_pretraining_never_sees_what_it_is_transferred_to(stored):
    p,rs,*_ = stored
    a,b = open_source(p, p.seeds[0]),open_target(p, p.seeds[0])
    assert {r.config['data_digest'] for r in rs if r.map == 'direct'}.isdisjoint(r.config['data_digest'] for r in rs if r.map != 'direct')
    if a.name == b.name:
        assert set(a.args['faces']).isdisjoint(b.args['faces']) and a.level('character').vocab == b.level('character').vocab
    else: assert set(a.hierarchy.leaves).isdisjoint(b.hierarchy.leaves)


def test_origin_is_known(stored):
    *_,prov,_ = stored
    for o in (prov, *prov.get('earlier', [])): assert len(o['commit']) == 40 and o['device'] and all(o['versions'].values())
