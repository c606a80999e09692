"A source of four easy classes, for the tests that train; a module, so that other processes can import it."
import numpy as np
from granularity_nb.data.source import Source, Split
from granularity_nb.labels.hierarchy import Hierarchy


def make_bars(train=200, test=64):
    "Four leaves, a bright bar at one of four places, plus noise: left and right bars are vertical, top and bottom horizontal."
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
    return Source('bars', h, dict(train=split(train, 0), valid=split(64, 1), test=split(test, 2)), target, dict(place=h.level(0), direction=target))
