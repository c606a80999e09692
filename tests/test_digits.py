"scikit-learn's digits as a data set: its labels and pixels are scikit-learn's, its splits are apart, stratified and nested, and wrong use is named."
import json, os, subprocess, sys
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from sklearn.datasets import load_digits
from granularity_nb.data import digits as D
from granularity_nb.data.source import Source, SourceError, source_module, source_names

@pytest.fixture(scope='module')
def data(): return Source.open('digits')

@pytest.fixture(scope='module')
def sklearns(): return load_digits()

def rows(images): return [o.tobytes() for o in np.asarray(images)]

def test_it_is_registered():
    assert 'digits' in source_names() and source_module('digits') == 'granularity_nb.data.digits'

def test_images_are_what_they_claim(data):
    assert list(data.splits) == ['train','valid','test'] and [len(s) for s in data.splits.values()] == [600, 300, 897]
    for s in data.splits.values(): assert s.images.dtype == np.uint8 and s.images.shape == (len(s),32,32)
    x = np.asarray(data.split('train').images)
    assert (x[:,0] == 0).all() and (x[:,:,0] == 0).all() and x.max() > 220 # white on black, as the glyphs
    high = (x > 96).any(2).sum(1)
    assert 18 < high.mean() < 21 # and as high as a capital there, about 19 pixels

def test_every_image_is_there_once_with_its_own_label(data, sklearns):
    "Against scikit-learn's own arrays, image by image."
    want = {}
    for im,y in zip(rows(D._enlarged(sklearns.images.astype(int))), sklearns.target): want.setdefault(im, []).append(y)
    assert len(want) == 1797 # no two images are the same, so each stands for itself
    got = [(im, data.target.vocab[c]) for s in data.splits.values() for im,c in zip(rows(s.images), data.target.encode(s.leaf))]
    assert len(got) == len({im for im,_ in got}) == 1797
    assert all(str(want[im][0]) == y for im,y in got)

def test_enlarging_is_bilinear(sklearns):
    "Against scipy: linear interpolation at the page's places, zero outside; within half a grey value."
    from scipy.ndimage import map_coordinates
    at = np.stack(np.meshgrid(*[(np.arange(32)+.5-16)/2.5+3.5]*2, indexing='ij'))
    for x in sklearns.images[::200]:
        theirs = map_coordinates(np.pad(x, 5)*255/16, at+5, order=1)
        assert np.abs(D._enlarged(x[None].astype(int))[0]-theirs).max() <= .5+1e-9

def test_ink_is_kept(sklearns):
    "Each of the eight by eight values weighs 2.5 × 2.5 pixels."
    x = sklearns.images.astype(int)
    ratio = D._enlarged(x).sum((1,2))/(x.sum((1,2))*255/16)
    assert np.abs(ratio/6.25-1).max() < .02

def test_bytes_are_the_same_anywhere():
    "Whole numbers all the way: no machine, process or version may differ."
    code = "from granularity_nb.data.source import Source; import granularity_nb.data.digits, hashlib; s = Source.open('digits', n_train=100, seed=3)\n" \
           "print(*(hashlib.sha256(o.leaf.astype('<i4').tobytes()+o.images.tobytes()).hexdigest()[:16] for o in s.splits.values()))"
    env = dict(os.environ, PYTHONHASHSEED='7')
    got = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout.split()
    assert got == ['5d6a80163bc872b3', 'fe99ade0046556fc', '9913a189d08298f7']

def test_labels_and_levels(data):
    assert data.target.vocab == tuple('0123456789') and data.target == data.levels['digit']
    assert list(data.levels) == ['digit','loops'] and set(data.level('loops').vocab) == {'no loop','one loop','two loops'}
    assert {d: data.level('loops')[d] for d in '018'} == {'0': 'one loop', '1': 'no loop', '8': 'two loops'}
    assert data.level('digit').refines(data.level('loops')) and not data.level('loops').refines(data.target)

@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 897), st.integers(0, 2**32-1), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_splits_are_apart_and_stratified(n_train, n_valid, n_test, seed, test_seed):
    y = D._counts()[1]
    parts = D._parts(y, dict(test=n_test, valid=n_valid, train=n_train), (test_seed, seed, seed))
    assert {k: len(v) for k,v in parts.items()} == dict(test=n_test, valid=n_valid, train=n_train)
    everything = np.concatenate([*parts.values()])
    assert len(set(everything.tolist())) == len(everything)
    for part in parts.values(): # each digit's share, to within two images: one of this draw, one of those before it
        assert np.abs(np.bincount(y[part], minlength=10) - np.bincount(y)*len(part)/len(y)).max() <= 2

def test_fewer_training_images_are_a_beginning_of_more(data):
    few = Source.open('digits', n_train=50)
    assert (few.split('train').images == data.split('train').images[:50]).all()
    for k in ('valid','test'): assert (few.split(k).images == data.split(k).images).all()

def test_seeds_decide_their_own_splits_only(data):
    def same(**kw): return {k: set(rows(s.images)) == set(rows(data.split(k).images)) for k,s in Source.open('digits', **kw).splits.items()}
    assert same(seed=1) == dict(train=False, valid=False, test=True)
    assert not any(same(test_seed=1).values()) # what is left for training has changed

def test_args_make_it_again_after_json():
    a = Source.open('digits', n_train=40, n_valid=20, seed=5)
    b = Source.open('digits', **json.loads(json.dumps(a.args)))
    assert a.args == b.args and a.hierarchy == b.hierarchy
    assert all((b.split(k).images == s.images).all() and (b.split(k).leaf == s.leaf).all() for k,s in a.splits.items())

@pytest.mark.parametrize('args,says', [
    (dict(n_train=-1), 'n_train must be a whole number'), (dict(n_valid=1.5), 'n_valid'), (dict(n_test=True), 'n_test'), (dict(n_train=1798), 'to 1797'),
    (dict(n_train=601), 'n_train, n_valid and n_test are 1798 together, and there are 1797.*fewer'), (dict(seed='one'), "seed must be.*'one'"), (dict(seed=2**32), 'seed'),
    (dict(test_seed=-1), 'test_seed'), (dict(n_trian=5), 'n_train'), (dict(faces='serif'), 'faces')])
def test_bad_arguments_are_named(args, says):
    with pytest.raises(SourceError, match=says): Source.open('digits', **args)

def test_empty_splits():
    s = Source.open('digits', n_train=0, n_valid=0, n_test=0)
    assert all(o.images.shape == (0,32,32) for o in s.splits.values())
