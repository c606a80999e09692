"kill -9 at ten random moments: the run ends with the weights of the one that was left alone."
import csv, multiprocessing as mp, os, time
import numpy as np, pytest, safetensors.torch as st, torch
from bars import make_bars
from test_longrun import equal, weights
from granularity_nb.training.longrun import _load_json
from granularity_nb.training.pretrain import pretrain
from granularity_nb.training.recipe import Recipe

killable = Recipe(epochs=4, bs=32, lr=.05, augment='shift:2', ema=.9)

def run_killable(folder):
    torch.set_num_threads(1)
    bars = make_bars(640)
    pretrain(bars, bars.level('place'), folder, killable, seed=3, progress=False, device='cpu', save_minutes=0)


def steps_done(state): return _load_json(state)['train_iter'] if state.exists() else 0


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that start quickly, by forking')
def test_killed_at_ten_random_moments(tmp_path):
    "kill -9 at moments that the machine's speed decides: the state must be whole whenever that is."
    ctx = mp.get_context('forkserver')
    ctx.set_forkserver_preload(['granularity_nb.training.pretrain','timm.utils']) # loaded once, not by each of the twelve
    def start(folder):
        p = ctx.Process(target=run_killable, args=(folder,))
        p.start()
        return p
    first = start(tmp_path/'alone')
    rng,state,after = np.random.default_rng(0), tmp_path/'killed'/'training.safetensors', []
    for _ in range(10):
        p,done = start(tmp_path/'killed'), steps_done(state)
        target = done+rng.integers(1, 5)
        while p.is_alive() and steps_done(state) < target: time.sleep(.002)
        time.sleep(rng.uniform(0, .02))
        assert p.is_alive(), f'finished after {len(after)} kills: {after}'
        p.kill()
        p.join()
        after.append(steps_done(state))
    last = start(tmp_path/'killed')
    for p in (first, last): p.join()
    assert first.exitcode == last.exitcode == 0 and after == sorted(set(after)), after
    assert equal(weights(tmp_path/'alone'), weights(tmp_path/'killed'))
    assert sorted(o.name for o in (tmp_path/'killed').iterdir()) == ['checkpoint.json', 'metrics.csv', 'model.safetensors']
    a,b = ([row[:2] for row in csv.reader(open(tmp_path/f/'metrics.csv'))] for f in ('alone','killed'))
    assert a == b and len(a) == 5


def dies_while_saving(folder, calls):
    "The process ends in the middle of the last of so many calls of safetensors, which has its own file beside the one that it was given."
    def half(tensors, f, metadata):
        nonlocal calls
        calls -= 1
        if calls: return save_file(tensors, f, metadata)
        f.with_name('.tmpA1b2C3').write_bytes(b'half')
        os._exit(9)
    save_file,st.save_file = st.save_file,half
    run_killable(folder)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that start quickly, by forking')
def test_killed_while_saving_leaves_nothing(tmp_path):
    "The moment that ten random ones seldom hit."
    ctx = mp.get_context('forkserver')
    p = ctx.Process(target=dies_while_saving, args=(tmp_path, 3))
    p.start()
    p.join()
    assert p.exitcode == 9 and steps_done(tmp_path/'training.safetensors') == 2
    assert any(o.name.startswith('.tmp') for o in tmp_path.iterdir()), 'there is something to remove'
    p = ctx.Process(target=run_killable, args=(tmp_path,))
    p.start()
    p.join()
    assert p.exitcode == 0 and sorted(o.name for o in tmp_path.iterdir()) == ['checkpoint.json', 'metrics.csv', 'model.safetensors']
