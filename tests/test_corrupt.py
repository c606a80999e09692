"Corruptions: reproducible image by image, stronger with severity, equal to independent implementations, and loud about bad input."
import warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from granularity_nb.data.corrupt import corrupt, corruption_names
from granularity_nb.data.source import Source, SourceError, Split
from granularity_nb.labels.hierarchy import Hierarchy


def pictures(n=5, h=20, w=24, c=3, seed=0):
    "Smooth pictures: noise alone would look the same after any shift."
    from scipy.ndimage import gaussian_filter
    x = gaussian_filter(np.random.default_rng(seed).standard_normal((n, h, w, c)), (0, 2, 2, 0))
    return ((x-x.min())/(x.max()-x.min())*255).astype(np.uint8)


@pytest.mark.parametrize('name', corruption_names)
@pytest.mark.parametrize('shape', [(24, 24), (20, 28, 3), (16, 16, 1)])
def test_shape_type_and_seed(name, shape):
    x = np.random.default_rng(0).integers(0, 256, (12, *shape), dtype=np.uint8)
    before = x.copy()
    a = corrupt(x, name, 3)
    assert a.shape == x.shape and a.dtype == np.uint8 and (x == before).all() and (a != x).any()
    assert (a == corrupt(x, name, 3)).all()
    if name not in ('gaussian_blur', 'contrast'): assert (a != corrupt(x, name, 3, seed=1)).any()


@pytest.mark.parametrize('name', corruption_names)
def test_an_image_does_not_depend_on_its_neighbours(name):
    x = pictures(600, 8, 8, 1)[..., 0] # more than are corrupted at once
    whole = corrupt(x, name, 2)
    assert (corrupt(x[:3], name, 2) == whole[:3]).all()
    y = x.copy()
    y[:-1] = 255-y[:-1]
    assert (corrupt(y, name, 2)[-1] == whole[-1]).all()


@pytest.mark.parametrize('name', corruption_names)
def test_stronger_with_severity(name):
    x = pictures(30, 32, 32)
    far = [np.abs(corrupt(x, name, s).astype(int)-x).mean() for s in range(1, 6)]
    assert 0 < far[0] and (np.diff(far) > 0).all()


@given(st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=20)
def test_a_flat_image_stays_flat(seed, severity):
    "What only moves, blurs, hides or fades leaves an image of one colour alone."
    x = np.full((2, 12, 16, 3), 77, np.uint8)
    for name in ('gaussian_blur', 'contrast', 'occlusion', 'clutter', 'shift', 'rotation', 'elastic'):
        assert np.abs(corrupt(x, name, severity, seed).astype(int)-77).max() <= 1, name


def test_noise_has_the_stated_strength():
    x = np.full((8, 64, 64), 128, np.uint8)
    for s,c in zip(range(1, 6), (.08, .12, .18, .26, .38)):
        inside = corrupt(x, 'gaussian_noise', s)/255
        clipped = np.clip(128/255+c*np.random.default_rng(1).standard_normal(10**6), 0, 1).std() # by simulation, clipping included
        assert abs(inside.std()/clipped-1) < .02
    for s,c in zip(range(1, 6), (60, 25, 12, 5, 3)):
        clipped = np.clip(np.random.default_rng(1).poisson(128/255*c, 10**6)/c, 0, 1).std()
        assert abs((corrupt(x, 'shot_noise', s)/255).std()/clipped-1) < .02
    for s,c in zip(range(1, 6), (.03, .06, .09, .17, .27)):
        hit = corrupt(x, 'impulse_noise', s)
        assert abs((hit == 0).mean()-c/2) < .005 and abs((hit == 255).mean()-c/2) < .005


def test_blur_equals_pillow():
    from PIL import Image, ImageFilter
    x = pictures(3, 40, 40)
    for s,c in zip(range(1, 6), (.0125, .019, .025, .035, .05)):
        ref = np.stack([np.asarray(Image.fromarray(o).filter(ImageFilter.GaussianBlur(c*40))) for o in x]).astype(int)
        assert np.abs(corrupt(x, 'gaussian_blur', s).astype(int)-ref)[:,4:-4,4:-4].max() <= 3 # Pillow's is three boxes


def test_shift_moves_by_the_stated_distance():
    x = np.zeros((40, 33, 33), np.uint8)
    x[:,16,16] = 255
    for s,c in zip(range(1, 6), (.03, .06, .1, .15, .2)):
        i,r,k = np.nonzero(corrupt(x, 'shift', s))
        assert (i == np.arange(40)).all() and np.abs(np.hypot(r-16, k-16)-33*c).max() < .75


def test_rotation_equals_scipy():
    from scipy.ndimage import rotate
    x = pictures(12, 21, 21)
    for s,deg in zip(range(1, 6), (5, 10, 20, 30, 45)):
        refs = [rotate(x.astype(float), a, (1,2), reshape=False, order=1, mode='nearest') for a in (deg, -deg)]
        worst = np.minimum(*[np.abs(corrupt(x, 'rotation', s)-r).max((1,2,3)) for r in refs])
        assert worst.max() <= 1
        turned = np.array([np.abs(corrupt(x, 'rotation', s)-r).max((1,2,3)) <= 1 for r in refs])
        assert turned.any(1).all(), 'both directions occur among twelve images'


def test_occlusion_hides_a_square_of_the_mean_colour():
    x = pictures(20, 30, 40)
    for s,c in zip(range(1, 6), (.2, .3, .4, .5, .6)):
        out = corrupt(x, 'occlusion', s)
        for a,b in zip(x, out):
            r,k = np.nonzero((a != b).any(-1))
            side = round(30*c)
            assert np.ptp(r) < side and np.ptp(k) < side
            assert np.abs(b[r,k]-a.mean((0,1))).max() <= 1


def test_clutter_is_drawn_in_the_colour_that_differs_most():
    x = np.full((6, 32, 32), 40, np.uint8)
    x[:,10:14,10:14] = 200
    out = corrupt(x, 'clutter', 3)
    assert (out >= x).all() and out.max() == 200
    assert (corrupt(255-x, 'clutter', 3) <= 255-x).all()


@pytest.mark.parametrize('bad,word', [(dict(name='fog', severity=1), 'gaussian_noise'), (dict(name='shift', severity=0), '1 to 5'), (dict(name='shift', severity=True), '1 to 5'),
                                      (dict(name='shift', severity=2.5), '2.5')])
def test_bad_arguments_are_named(bad, word):
    with pytest.raises(SourceError, match=word): corrupt(pictures(), **bad)


def test_bad_images_are_named():
    with pytest.raises(SourceError, match='float64'): corrupt(pictures()/255, 'shift', 1)
    with pytest.raises(SourceError, match='uint8 of shape'): corrupt(np.zeros((8, 8), np.uint8), 'shift', 1)
    assert corrupt(np.zeros((0, 8, 8), np.uint8), 'shift', 1).shape == (0, 8, 8)


def test_corrupted_source_keeps_what_it_had():
    h = Hierarchy.from_paths({'a': ['x'], 'b': ['y']})
    x = pictures(6)
    s = Source('few', h, dict(train=Split(x, [0,1]*3), test=Split(x, [1,0]*3)), h.level(1), args=dict(n=6))
    c = s.corrupted(names=['shift', 'clutter'], severities=[1, 5])
    assert list(c.splits) == ['train', 'test', 'test:shift:1', 'test:shift:5', 'test:clutter:1', 'test:clutter:5']
    assert c.split('train') is s.split('train') and c.args == s.args and list(s.splits) == ['train', 'test']
    assert (c.split('test:shift:5').images == corrupt(x, 'shift', 5)).all() and (c.split('test:shift:5').leaf == s.split('test').leaf).all()
    with pytest.raises(SourceError, match='fog'): s.corrupted(names=['fog'])
    with pytest.raises(SourceError, match='nosuch'): s.corrupted('nosuch')


def test_a_corruption_that_changes_nothing_says_so():
    from granularity_nb.data.source import SourceWarning
    x = np.random.default_rng(0).integers(0, 256, (9,8,8), dtype=np.uint8)
    with pytest.warns(SourceWarning, match='shift at severity 1 leaves 9 of 9 images of 8×8 pixels as they are'): assert np.array_equal(corrupt(x, 'shift', 1), x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for o in corruption_names: corrupt(x, o, 5)
