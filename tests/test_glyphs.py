"The glyphs data set: what its labels promise, that its images follow from its arguments, and how it fails."
import dataclasses, hashlib, json, os, subprocess, sys
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from granularity_nb.data import glyphs as G
from granularity_nb.data.glyphs import Difficulty, LEVELS, SCRIPTS
from granularity_nb.data.source import Source, SourceError

still = Difficulty(rotation=0, shear=0, scale=(1,1), shift=0, thickness=(0,0), contrast=(1,1), gradient=0, noise=(0,0))

@pytest.fixture(scope='module')
def data(): return Source.open('glyphs')

@pytest.fixture(scope='module')
def small(): return Source.open('glyphs', n_train=700, n_valid=600, n_test=600, scripts=['Latin','Hebrew','Lao'])

def sha(*parts): return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]

# Labels

def test_labels_are_the_same_anywhere(data):
    "Python, numpy and matplotlib may differ from machine to machine; these may not."
    assert sha(*data.hierarchy.leaves) == '9989be88f7a1e8e6'
    maps = {k: sha(*m.vocab, *map(str, m.codes)) for k,m in data.levels.items()}
    assert maps == {
        'character x font': '0e80e603fe34830f', 'character': '5c6568dffedbe1b0', 'base letter': '86278c2dfcf421db',
        'segment': '6d489129fa4a4d89', 'kind': 'be88a22815f5d761', 'script': '5e53cf1936833860'}
    leaf = {k: hashlib.sha256(s.leaf.astype('<i4').tobytes()).hexdigest()[:16] for k,s in data.splits.items()}
    assert leaf == {
        'train': 'edfb99cf478d35cf', 'valid': '0dafecf84507755c', 'test': 'a4a5a9559f83f2db',
        'shifted': 'a4a5a9559f83f2db'}

def test_levels_are_nested_and_branch(data):
    assert tuple(data.levels) == LEVELS and data.target == data.levels['script']
    maps = list(data.levels.values())
    for fine,coarse in zip(maps, maps[1:]): assert fine.refines(coarse) and fine.n_classes > coarse.n_classes
    assert [m.n_classes for m in maps] == [1750, 459, 277, 70, 19, 12]

def test_every_class_has_a_training_image_and_every_test_class_was_trained(data):
    for name,m in data.levels.items():
        train,test = (set(m.encode(data.split(k).leaf)) for k in ('train','test'))
        assert train == set(range(m.n_classes)), name
        assert test <= train

def test_fonts_of_training_and_test_are_apart(data):
    fonts = {k: {data.hierarchy.leaves[i].split(' | ')[1] for i in s.leaf} for k,s in data.splits.items()}
    assert len(fonts['train']) == 8 and fonts['train'] == fonts['valid'] and fonts['test'] == fonts['shifted']
    assert all('Bold' in f for f in fonts['test']) and not any('Bold' in f for f in fonts['train'])

def test_sampling_is_stratified(data):
    char = data.level('character')
    for s in data.splits.values():
        codes = char.encode(s.leaf)
        n = np.bincount(codes, minlength=char.n_classes)
        assert n.max()-n.min() <= 1
        each = np.bincount(s.leaf, minlength=data.hierarchy.n_leaves)
        for c in range(0, char.n_classes, 7):
            own = each[np.unique(s.leaf[codes==c])]
            assert own.max()-own.min() <= 1

@given(st.integers(0, 200), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_sample_takes_evenly_from_any_strata(n, sizes, seed):
    edges = np.r_[0, np.cumsum(sizes)]
    strata = [np.arange(a, b) for a,b in zip(edges, edges[1:])]
    leaf = G._sample(n, strata, seed, 0)
    assert len(leaf) == n and leaf.dtype == np.int32
    count = [np.isin(leaf, s).sum() for s in strata]
    assert max(count)-min(count) <= 1
    for s in strata:
        own = np.bincount(leaf[np.isin(leaf, s)]-s[0], minlength=len(s))
        assert own.max()-own.min() <= 1

@given(st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=25)
def test_a_smaller_cap_takes_a_part_of_a_larger_one(a, b):
    a,b = sorted((a, b))
    few,many = G.characters(a), G.characters(b)
    assert set(few) <= set(many)
    for cap,chars in ((a,few), (b,many)):
        n = np.bincount([list(SCRIPTS.values()).index(G.describe(c)[0]) for c in chars], minlength=12)
        assert n.max() <= cap and n.min() >= min(cap, 30)

def test_small_presets_still_branch():
    h = G.tree(max_chars=20)
    n = [h.rank(k).n_classes for k in LEVELS]
    assert n == sorted(n, reverse=True) and n[1] == 240 and n[2] < .75*n[1] and n[3] < .5*n[2]

def test_no_shape_stands_for_two_scripts():
    "Where letters of several scripts look alike, exactly one of them is in the default list."
    chars,everything = G.characters(None), G.characters(None, lookalikes=True)
    for alike in ('AΑА', 'BΒВ', 'HΗН', 'oοо', 'TΤТ', 'IІΙ'):
        assert set(alike) <= set(everything) and len(set(alike) & set(chars)) <= 1
    assert set(chars) < set(everything)
    for c,faces in chars.items(): assert faces == everything[c]

def test_the_shipped_list_names_letters_that_the_fonts_have():
    for table in (G._distinct, G._lookalikes):
        for script,text in table.items():
            for c,faces in list(G._decode(text))[::5]:
                assert G.describe(c)[0] == script
                for i,files in enumerate(G.FACES.values()):
                    if faces>>i & 1: assert all(G._font(f).get_char_index(ord(c)) for f in files)

@pytest.mark.parametrize('char,is_', [('é',('Latin','small','E')), ('Ώ',('Greek','capital','Omega')), ('ﺏ',('Arabic','letter','Beh')),
    ('ך',('Hebrew','letter','Kaf')), ('ᐹ',('Canadian','syllable','P')), ('ⴾ',('Tifinagh','letter','Yak')),
    ('ໃ',('Lao','vowel sign','Ay')), ('7',None), ('あ',None), ('\n',None), ('\u0301',None), ('ﬁ',None), ('𞸀',None)])
def test_describe(char, is_): assert G.describe(char) == is_

# Images

def test_images_are_what_they_claim(small):
    for s in small.splits.values(): assert s.images.shape == (len(s),32,32) and s.images.dtype == np.uint8
    x = small.split('train').images.reshape(700, -1)
    assert x.std(1).min() > 3
    everything = np.concatenate([s.images.reshape(len(s), -1) for s in small.splits.values()])
    assert len(np.unique(everything, axis=0)) == len(everything)

def test_pixels_hardly_depend_on_the_machine(data):
    "FreeType and torch may round differently; the picture must stay the same."
    got = {k: data.split(k).images[:8].mean((1,2)) for k in ('train','shifted')}
    assert np.abs(got['train'] - [49.7, 51.5, 29.8, 94.4, 71.4, 75.0, 48.2, 34.7]).max() < 1
    assert np.abs(got['shifted'] - [103.5, 41.1, 74.4, 49.8, 41.9, 59.9, 85.2, 99.8]).max() < 1

def test_bytes_depend_neither_on_threads_nor_on_hash_seeds():
    code = """if True:
        import sys, hashlib, torch
        torch.set_num_threads(int(sys.argv[1]))
        from granularity_nb.data.source import Source
        s = Source.open('glyphs', n_train=1300, n_valid=10, n_test=600, max_chars=12)
        print(s.hierarchy.digest, *(hashlib.sha256(o.leaf.tobytes()+o.images.tobytes()).hexdigest() for o in s.splits.values()))"""
    def run(threads, salt):
        env = dict(os.environ, PYTHONHASHSEED=salt, OMP_NUM_THREADS=str(threads))
        return subprocess.run([sys.executable, '-c', code, str(threads)], env=env, capture_output=True, text=True, check=True).stdout
    first = run(1, '0')
    assert len(first.split()) == 5 and run(2, '1') == first

def test_image_depends_on_its_place_only(small):
    "Drawing fewer images, or after other data sets, changes none of them."
    tiles = G.bank([('a','DejaVuSans'), ('b','DejaVuSerif')])
    which = np.random.RandomState(0).randint(0, 2, 1100)
    whole = G.draw(tiles, which, seed=5, stream=3)
    for n in (1, 511, 512, 513): assert (G.draw(tiles, which[:n], seed=5, stream=3) == whole[:n]).all()
    assert len(np.unique(whole.reshape(1100, -1), axis=0)) == 1100 # no chunk repeats another
    assert (whole != G.draw(tiles, which, seed=6, stream=3)).any((1,2)).all()
    assert (whole != G.draw(tiles, which, seed=5, stream=4)).any((1,2)).all()

def test_seeds_decide_their_own_splits_only(small):
    other = {k: Source.open('glyphs', **{**small.args, k: 1}) for k in ('seed','test_seed')}
    for seed,mine in (('seed',('train','valid')), ('test_seed',('test','shifted'))):
        for k,s in small.splits.items():
            same = np.array_equal(s.images, other[seed].split(k).images) and np.array_equal(s.leaf, other[seed].split(k).leaf)
            assert same == (k not in mine)

def test_args_make_it_again_after_json(small):
    again = Source.open('glyphs', **json.loads(json.dumps(small.args)))
    assert again.args == small.args and again.hierarchy == small.hierarchy
    assert all((again.split(k).images == s.images).all() for k,s in small.splits.items())

def test_shifted_is_test_under_worse_conditions(small):
    a,b = small.split('test'), small.split('shifted')
    assert (a.leaf == b.leaf).all() and (a.images != b.images).any((1,2)).all()
    def together(x, y): return np.mean([np.corrcoef(p.ravel(), q.ravel())[0,1] for p,q in zip(x, y)])
    assert together(a.images, b.images) > .5 > .4 > together(a.images, np.roll(b.images, 1, axis=0))

def test_labels_do_not_leak_into_the_background(data):
    "A ridge classifier tells scripts from whole images, but not from the corners, nor from the place in the split."
    s = data.split('train')
    y = data.target.encode(s.leaf)
    def error(x):
        x = np.c_[x.reshape(len(x), -1)/255., np.ones(len(x))]
        half = len(x)//2
        w = np.linalg.solve(x[:half].T@x[:half] + 10*np.eye(x.shape[1]), x[:half].T@np.eye(12)[y[:half]])
        return ((x[half:]@w).argmax(1) != y[half:]).mean()
    chance = 1-np.bincount(y).max()/len(y)
    corners = s.images[:,[0,0,-1,-1],[0,-1,0,-1]]
    assert error(s.images) < .8
    assert error(corners) > chance-.03
    place = np.arange(len(y))
    assert error(np.stack([(place*k) % 256 for k in range(1, 9)], 1)) > chance-.03

# Drawing

def test_a_still_image_is_the_rendered_character():
    "Against an independent way to the same picture: the ink itself, made smaller by averaging."
    from PIL import Image
    for char,file in (('R','DejaVuSans-Bold'), ('ش','DejaVuSans'), ('g','STIXGeneral')):
        mine = G.draw(G.bank([(char,file)]), [0], still)[0]/255
        theirs = np.asarray(Image.fromarray(G._page(char, file)).resize((32,32), Image.BOX))
        assert np.abs(mine-theirs).mean() < .03 and np.corrcoef(mine.ravel(), theirs.ravel())[0,1] > .96

def moments(x):
    y,x_ = np.mgrid[:32,:32]
    p = x/x.sum((1,2), keepdims=True)
    cx,cy = (p*x_).sum((1,2)), (p*y).sum((1,2))
    dx,dy = x_[None]-cx[:,None,None], y[None]-cy[:,None,None]
    return cx, cy, np.degrees(.5*np.arctan2(2*(p*dx*dy).sum((1,2)), (p*(dy**2-dx**2)).sum((1,2)))), (p*(dx**2+dy**2)).sum((1,2))**.5

def many(n=400, char='l', **kw): return G.draw(G.bank([(char,'DejaVuSans')]), np.zeros(n, int), dataclasses.replace(still, **kw))/255.

def test_geometry_stays_in_its_range():
    cx,cy,_,_ = moments(many(shift=3))
    assert 2.7 < np.abs(cx-cx.mean()).max() < 3.1 and 2.7 < np.abs(cy-cy.mean()).max() < 3.1
    turned = many(rotation=10)
    angle,area = moments(turned)[2], turned.sum((1,2))
    assert 9 < angle.max() < 11 and -11 < angle.min() < -9
    assert area.max()/area.min() < 1.02 # a turn changes no area, nor does a shear
    sheared = many(shear=.3).sum((1,2))
    assert sheared.max()/sheared.min() < 1.02
    size = moments(many(scale=(.8,1.2)))[3]/moments(many(1))[3]
    assert .78 < size.min() < .83 and 1.17 < size.max() < 1.22

def test_light_stays_in_its_range():
    thin,normal,thick = (many(1, thickness=(t,t)).sum() for t in (-.3, 0, 1))
    assert thin < normal < thick
    x = many(contrast=(.4,.6))
    span = x.max((1,2))-x.min((1,2))
    assert .38 < span.min() < .45 and .55 < span.max() < .62
    assert .4 < (many(invert=.5)[:,0,0] == 1).mean() < .6 and (many(invert=1)[:,0,0] == 1).all()
    noise = many(contrast=(.2,.2), noise=(.05,.05))[:,:6,:6]
    noise = noise[(noise.mean((1,2)) > .25) & (noise.mean((1,2)) < .75)]
    assert .045 < noise.std((1,2)).mean() < .055

@pytest.mark.parametrize('kw', [dict(clutter=3), dict(warp=1.), dict(gradient=.3), dict(shear=.2)])
def test_what_is_switched_on_shows(kw):
    x,rest = many(**kw), many(1)
    assert np.abs(x-rest).mean() > .002
    if 'clutter' in kw: # lines add ink and move nothing
        assert (x >= rest-.01).all() and .1 < (np.abs(x-rest).max((1,2)) < .01).mean() < .5

# Faults

@pytest.mark.parametrize('args,says', [
    (dict(n_train=-1), 'n_train must be a whole number'), (dict(n_test=1.5), 'n_test'), (dict(n_valid=True), 'n_valid'),
    (dict(seed='one'), "seed must be.*'one'"), (dict(seed=2**32), 'seed'), (dict(test_seed=-1), 'test_seed'),
    (dict(max_chars=0), 'max_chars'), (dict(scripts=['Klingon']), "'Klingon'.*Tifinagh"), (dict(scripts=[]), 'at least one'),
    (dict(faces=['Comic Sans']), "'Comic Sans'.*serif.*STIXGeneral"), (dict(faces=[]), 'at least one'), (dict(scripts=['Lao'], faces=['STIXGeneral']), 'has Lao'),
    (dict(difficulty='hard'), "'hard'.*'easy'"), (dict(shifted='hard'), "'hard'"), (dict(difficulty=3), 'not 3'),
    (dict(difficulty=dict(nois=1)), "'nois'.*noise"), (dict(difficulty=dict(noise=(.2,.1))), 'noise'),
    (dict(difficulty=dict(noise=.1)), 'two numbers'), (dict(difficulty=dict(clutter=1.5)), 'whole number'),
    (dict(difficulty=dict(warp=float('nan'))), 'warp'), (dict(difficulty=dict(scale=(0,1))), 'scale'), (dict(n_trian=5), 'n_train')])
def test_bad_arguments_are_named(args, says):
    with pytest.raises(SourceError, match=says): Source.open('glyphs', **args)

def test_missing_fonts_and_characters():
    with pytest.raises(SourceError, match='install matplotlib again'): G.ink('a', 'NoSuchFont')
    with pytest.raises(SourceError, match=r"no '語' \(U\+8A9E\)"): G.ink('語', 'DejaVuSans')

def test_characters_are_drawn_as_the_font_has_them():
    "Lao AM stands wider than high; text shaping, which newer versions of matplotlib do, would take it apart."
    h,w = G.ink('ຳ', 'DejaVuSans').shape
    assert w > h

def test_faces_and_scripts_narrow_the_set():
    s = Source.open('glyphs', n_train=30, n_valid=0, n_test=0, faces=['STIXGeneral'])
    assert s.target.vocab == ('Cyrillic','Greek','Latin') and len(s.split('valid').images) == 0
    assert {o.split(' | ')[1] for o in s.hierarchy.leaves} == {'STIXGeneral','STIXGeneral Bold'}
    one = Source.open('glyphs', n_train=30, scripts=["N'Ko"])
    assert one.target.n_classes == 1 and one.split('train').images.shape == (30,32,32)

def test_families_stand_for_their_faces():
    "A family is a short name: the stored identity of a data set is that of its faces, in their one order."
    small = dict(n_train=40, n_valid=0, n_test=40)
    one = Source.open('glyphs', faces='serif', **small)
    assert one.args == Source.open('glyphs', faces=['DejaVu Serif Italic', 'DejaVu Serif'], **small).args
    assert one.args['faces'] == ['DejaVu Serif', 'DejaVu Serif Italic']
    assert Source.open('glyphs', **small).args == Source.open('glyphs', faces=[*G.FAMILIES], **small).args
    assert sorted(f for fs in G.FAMILIES.values() for f in fs) == sorted(G.FACES) # each face in one family
    assert Source.open('glyphs', faces=['mono','STIXGeneral'], **small).args['faces'] == ['DejaVu Sans Mono', 'DejaVu Sans Mono Oblique', 'STIXGeneral']

def test_two_families_share_characters_and_no_font():
    five = dict(scripts=['Latin','Greek','Cyrillic','Armenian','Georgian'], max_chars=32, n_train=900, n_valid=0, n_test=900)
    a,b = (Source.open('glyphs', faces=f, **five) for f in (['sans','mono'], 'serif'))
    assert a.target.vocab == b.target.vocab and a.level('character').vocab == b.level('character').vocab and a.level('character').n_classes == 160
    fonts = [{s.hierarchy.leaves[i].split(' | ')[1] for k in s.splits for i in s.split(k).leaf} for s in (a,b)]
    assert [len(o) for o in fonts] == [8, 4] and not fonts[0] & fonts[1]
