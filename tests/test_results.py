"Stored results must be those of the code beside them: the same plan, the same runs, whole tables, a known origin."
import json
from pathlib import Path
import pandas as pd, pytest
from granularity_nb.study.plan import plan_from_dict, preset, runs

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
STORED = ['glyphs-full', 'glyphs-tune']
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason='the stored results are not part of the installed package')


@pytest.fixture(params=STORED)
def stored(request):
    d = RESULTS/request.param
    return request.param, json.loads((d/'plan.json').read_text()), json.loads((d/'provenance.json').read_text()), pd.read_parquet(d/'results.parquet')


def test_planning_again_gives_the_same_runs(stored):
    name,plan,_,_ = stored
    p = preset(*name.split('-'))
    assert plan_from_dict(plan['plan']) == p
    assert [r.id for r in runs(p)] == [o['id'] for o in plan['runs']], 'data, label maps or recipes have changed since: run the study again'


def test_table_is_whole(stored):
    _,plan,_,table = stored
    p = plan_from_dict(plan['plan'])
    expected = {(r.recipe, r.map, how, r.seed, s, r.id) for r in runs(p) for how in r.transfers for s in p.splits}
    got = list(zip(table.recipe, table.label_map, table.transfer, table.seed, table.split, table.run))
    assert set(got) == expected and len(got) == len(expected)
    assert table.error.between(0, 1).all() and (table.nll > 0).all()


def test_origin_is_known(stored):
    _,_,prov,_ = stored
    assert len(prov['commit']) == 40, 'made from a checkout with uncommitted changes, or from none'
    assert 'study' in prov['command'] and prov['device'] and all(prov['versions'].values())
