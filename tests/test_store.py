"The store: what is damaged is listed with its reason, what is odd becomes what a person expects, and nothing half-written is ever read."
import io, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from granularity_nb.data import store as module
from granularity_nb.data.store import Decode, ImageError, Store, StoreError, pixels as decoded, reasons, store

TINY = Path(__file__).parent.parent.parent/'shared'/'data'/'tiny-imagenet-200-32px.tar.gz'
fast = pytest.mark.skipif(module.simplejpeg is None, reason='simplejpeg is not installed')


def pixels(seed=0, h=40, w=56):
    "A smooth picture in colour, whose upper left is dark and lower right is bright."
    rng = np.random.default_rng(seed)
    a = np.asarray(Image.fromarray(rng.integers(60, 196, (4,5,3), dtype=np.uint8)).resize((w,h), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(a+np.add.outer(np.linspace(-60, 30, h), np.linspace(0, 30, w))[...,None], 0, 255).astype(np.uint8)


def saved(a, kind='JPEG', **kw):
    b = io.BytesIO()
    (Image.fromarray(a) if isinstance(a, np.ndarray) else a).save(b, kind, **kw)
    return b.getvalue()


def near(a, b, tol): return np.abs(np.asarray(a, float)-np.asarray(b, float)).mean() < tol


@pytest.fixture
def photos(tmp_path):
    "Twelve small JPEGs, the list of their names, and their folder."
    root = tmp_path/'photos'
    root.mkdir()
    names = [f'{i:02}.jpg' for i in range(12)]
    for i,n in enumerate(names): (root/n).write_bytes(saved(pixels(i, 32, 32)))
    return names, root


# ---- decoding

@fast
@pytest.mark.parametrize('kw', [dict(quality=90), dict(quality=30, subsampling=0), dict(quality=95, progressive=True), dict(quality=75, subsampling=1)])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_fast_decoder_is_bit_identical_to_pillow(monkeypatch, kw, mode):
    for h,w in ((32,32), (33,47), (1,1), (128,80)):
        for a in (pixels(1, h, w), pixels(1, h, w)[...,0]):
            data = saved(a, **kw)
            quick = [Decode(s, m)(data) for s in ((h,w), 16) for m in (mode,)]
            with monkeypatch.context() as m:
                m.setattr(module, 'simplejpeg', None)
                slow = [Decode(s, mode)(data) for s in ((h,w), 16)]
            assert all(np.array_equal(x, y) for x,y in zip(quick, slow, strict=True))
            assert np.array_equal(quick[0], np.asarray(Image.open(io.BytesIO(data)).convert('RGB').convert(mode)))


@fast
@pytest.mark.skipif(not TINY.exists(), reason='the shared Tiny-ImageNet archive is not here')
def test_fast_decoder_is_bit_identical_on_tiny_imagenet():
    import tarfile
    n = 0
    with tarfile.open(TINY) as t:
        for m in t:
            if not m.name.endswith('.JPEG'): continue
            data = t.extractfile(m).read()
            assert np.array_equal(Decode(32)(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))
            n += 1
            if n == 500: return


def test_what_a_person_expects():
    a = pixels()
    d = Decode((40,56))
    im = Image.fromarray(a)
    assert np.array_equal(d(saved(a, 'PNG')), a)
    assert near(d(saved(im.convert('CMYK'), 'JPEG', quality=95)), a, 6), 'CMYK'
    assert near(d(saved(im.quantize(256), 'PNG')), a, 6), 'palette'
    assert np.array_equal(d(saved(im.convert('1'), 'PNG')), np.asarray(im.convert('1').convert('RGB')))
    grey = np.asarray(im.convert('L'))
    assert np.array_equal(d(saved(Image.fromarray(grey.astype(np.uint16)*257), 'PNG')), np.stack([grey]*3, -1)), '16 bits'
    frames = [im.quantize(256), im.rotate(180).quantize(256)]
    assert near(d(saved(frames[0], 'GIF', save_all=True, append_images=frames[1:])), a, 6), 'animated: first frame'


def test_transparency_lies_on_white():
    rgba = np.dstack([pixels(), np.zeros((40,56), np.uint8)])
    rgba[:,28:,3] = 255
    out = Decode((40,56))(saved(rgba, 'PNG'))
    assert (out[:,:28] == 255).all() and np.array_equal(out[:,28:], rgba[:,28:,:3])
    p = Image.fromarray(np.array([[0,1]], np.uint8)).convert('P')
    p.putpalette([255,0,0, 0,0,255]+[0]*762)
    assert Decode((1,2))(saved(p, 'PNG', transparency=0)).tolist() == [[[255,255,255],[0,0,255]]]


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation(orientation):
    a = pixels()
    upright = Image.fromarray(a)
    back = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}.get(orientation)
    stored = upright.transpose(Image.Transpose[back]) if back else upright
    exif = Image.Exif()
    exif[0x112] = orientation
    assert near(Decode((40,56))(saved(stored, 'JPEG', quality=95, exif=exif)), a, 4)


def exif(orientation, order='<', extra=()):
    "EXIF data by hand: the orientation, then entries (tag, type, count, four bytes) that may be nonsense."
    import struct
    rows = sorted([(0x112, 3, 1, struct.pack(order+'HH', orientation, 0)), *extra])
    head = b'II*\0' if order == '<' else b'MM\0*'
    return head+struct.pack(order+'IH', 8, len(rows))+b''.join(struct.pack(order+'HHI', *o[:3])+o[3] for o in rows)+bytes(4)

ZERO, BEYOND, TEXT, MAKE = (0x11a, 5, 1, b'\xff\xff\0\0'), (0x8769, 4, 1, b'\xff'*4), (0x11b, 2, 3, b'ab\0\0'), (0x10f, 2, 99, b'\xff'*4) # an unreachable rational, a lost directory, text for a number, a lost name before the orientation
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></x:xmpmeta>'

def with_segment(data, marker, body):
    "A JPEG with a further segment before all others."
    return data[:2]+bytes([255, marker])+(len(body)+2).to_bytes(2, 'big')+body+data[2:]

def oriented():
    "Pictures that lie on their side and say so, each in its own way: name → bytes."
    import zlib
    a = np.ascontiguousarray(np.rot90(pixels()))
    jpg,png = saved(a, 'JPEG', quality=95),saved(a, 'PNG')
    chunk = lambda kind, body: len(body).to_bytes(4, 'big')+kind+body+zlib.crc32(kind+body).to_bytes(4, 'big')
    late = png[:-12]+chunk(b'eXIf', exif(6))+png[-12:]
    tif = Image.fromarray(a)
    tagged = __import__('PIL.TiffImagePlugin', fromlist=['x']).ImageFileDirectory_v2()
    tagged[0x112] = 6
    out = {f'{k} {order}': with_segment(jpg, 0xe1, b'Exif\0\0'+exif(6, order, extra)) for order in '<>' for k,extra in
           {'plain': (), 'rational': [ZERO], 'directory': [BEYOND], 'text': [TEXT], 'name': [MAKE], 'all': [ZERO, BEYOND, TEXT, MAKE]}.items()}
    out |= {'JPEG XMP': with_segment(jpg, 0xe1, b'http://ns.adobe.com/xap/1.0/\0'+XMP.encode()),
            'EXIF that is none, and XMP': with_segment(with_segment(jpg, 0xe1, b'http://ns.adobe.com/xap/1.0/\0'+XMP.encode()), 0xe1, b'Exif\0\0garbage!'),
            'PNG text': png[:33]+chunk(b'zTXt', b'Raw profile type exif\0\0'+zlib.compress(f'\nexif\n{len(exif(6)):8}\n{exif(6).hex()}\n'.encode()))+png[33:],
            'WebP XMP': saved(a, 'WEBP', quality=95, xmp=XMP.encode()),
            'behind a profile': with_segment(with_segment(jpg, 0xe1, b'Exif\0\0'+exif(6)), 0xe2, bytes(65_000)),
            'PNG eXIf': png[:33]+chunk(b'eXIf', exif(6, '>', [ZERO]))+png[33:], 'PNG eXIf at the end': late,
            'PNG XMP': png[:33]+chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0'+XMP.encode())+png[33:],
            'WebP': saved(a, 'WEBP', quality=95, exif=b'Exif\0\0'+exif(6, '<', [ZERO])), 'TIFF': saved(tif, 'TIFF', tiffinfo=tagged)}
    return out

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('without', [False, True])
def test_orientation_is_read_however_it_is_stored(monkeypatch, without):
    if without: monkeypatch.setattr(module, 'simplejpeg', None)
    turned = {k: Decode((40,56))(v) for k,v in oriented().items()}
    assert not [k for k,o in turned.items() if not near(o, pixels(), 6)]
    for k,v in oriented().items(): # opened by somebody else, as torchvision's datasets do
        im = Image.open(io.BytesIO(v))
        assert np.array_equal(Decode((40,56))(im), turned[k]) and np.array_equal(decoded(v), turned[k]), k


def test_fits():
    a = pixels(0, 40, 80)
    crop,squish,pad = (Decode(20, fit=f)(a) for f in ('crop','squish','pad'))
    assert near(crop, np.asarray(Image.fromarray(a[:,20:60]).resize((20,20), Image.Resampling.BICUBIC)), 3)
    assert near(squish, np.asarray(Image.fromarray(a).resize((20,20), Image.Resampling.BICUBIC)), 3)
    assert not pad[:5].any() and not pad[15:].any() and pad[5:15].any(axis=-1).all()
    assert Decode((7,30000))(pixels(0, 1, 30000)).shape == (7,30000,3)
    assert Decode(32)(pixels(0, 30000, 1)).shape == (32,32,3), 'a strip costs nothing'


@pytest.mark.parametrize('kw', [dict(size=0), dict(size=(3,)), dict(size='32'), dict(size=1.5), dict(mode='RGBA'), dict(fit='stretch')])
def test_wrong_transform_is_refused(kw):
    with pytest.raises(StoreError, match=str(next(iter(kw)))): Decode(**kw)


def kinds():
    "Pictures of every kind that Pillow knows: name → (image, format)."
    im = Image.fromarray(pixels())
    grey = np.linspace(0, 65535, 40*56).reshape(40, 56)
    alpha = im.copy()
    alpha.putalpha(Image.fromarray(np.linspace(0, 255, 40*56).reshape(40, 56).astype(np.uint8)))
    return {'grey': (im.convert('L'), 'PNG'), 'bits': (im.convert('1'), 'PNG'), '16 bits': (Image.fromarray(grey.astype(np.uint16)), 'PNG'), '32 bits': (Image.fromarray(grey.astype(np.int32)), 'TIFF'),
            'palette': (im.quantize(16), 'PNG'), 'CMYK': (im.convert('CMYK'), 'JPEG'), 'RGBA': (alpha, 'PNG'), 'LA': (alpha.convert('LA'), 'PNG'), 'YCbCr': (im.convert('YCbCr'), 'TIFF')}

def _readable(path):
    try:
        with Image.open(path) as im: im.load()
    except OSError: return False
    return True

def test_one_conversion_for_all_ways_in(tmp_path):
    "Store, stream, a single image, a torch dataset, a dataset in a store and a picture given to a model: the same pixels."
    from granularity_nb.data.block import RowImage
    from granularity_nb.data.images import from_datasets
    from granularity_nb.data.source import Files, Split
    from granularity_nb.data.stream import FileImages
    from granularity_nb.labels.hierarchy import Hierarchy
    for k,(im,kind) in kinds().items(): im.save(tmp_path/f'{k}.{kind.lower()}')
    if not _readable(tmp_path/'YCbCr.tiff'): (tmp_path/'YCbCr.tiff').unlink() # Pillow 12 cannot read its own
    (tmp_path/'sets').mkdir()
    files = Files.find(tmp_path)
    n = len(files)
    class Opened:
        classes = ['a','b']
        def __len__(self): return len(files)
        def __getitem__(self, i): return Image.open(files[i]), i%2
    st = store(files.relative(), tmp_path/'cache', tmp_path, (40,56), progress=False)
    assert not len(st.bad) and len(st) == n >= 8
    ways = dict(stream=FileImages(files, (40,56))[:], image=[Split(files, [0]*n).image(i) for i in range(n)], dataset=store(Opened(), tmp_path/'cache', size=(40,56), key='opened', progress=False).array,
                torch=from_datasets('x', dict(train=Opened()), Hierarchy.from_edges([('a','c'), ('b','c')])).split('train').images,
                predict=[RowImage([Split(st.array, [0]*n)]).picture(files[i]) for i in range(n)])
    for way,x in ways.items(): assert not [n for n,a,b in zip(files.relative(), st.array, x, strict=True) if not np.array_equal(a, b)], way
    deep = st.array[[i for i in range(n) if '16' in files.relative()[i]][0]]
    assert len(np.unique(deep)) == 256, 'all the greys that eight bits can hold'


# ---- damage

def damages():
    "Twelve ways to damage an image: name → (bytes or what to do with the path, reason)."
    jpg,png,gif = saved(pixels()), saved(pixels(), 'PNG'), saved(Image.fromarray(pixels()).quantize(64), 'GIF')
    rich = saved(np.random.default_rng(0).integers(0, 256, (40,56,3), dtype=np.uint8))
    mid = len(rich)//2
    bomb = saved(Image.new('1', (14_000,14_000)), 'PNG')
    ways = {'zero bytes': (b'', 'empty'),
            'cut in the middle': (rich[:mid], 'truncated'),
            'header cut': (jpg[:100], 'truncated'),
            'cut PNG': (png[:len(png)//2], 'truncated'),
            'cut GIF': (gif[:len(gif)//2], 'truncated'),
            'noise in a PNG': (png[:len(png)//2]+bytes(60)+png[len(png)//2+60:], 'corrupt'),
            'header overwritten': (jpg[:40]+bytes(400)+jpg[440:], 'corrupt'),
            'a web page': (b'<!DOCTYPE html>\n<html><title>404 Not Found</title></html>', 'not an image'),
            'bomb': (bomb, 'too large'),
            'floats': (saved(Image.fromarray(pixels()[...,0].astype(np.float32)), 'TIFF'), 'unsupported'),
            'dangling link': (lambda p: p.symlink_to('nowhere.jpg'), 'missing')}
    if module.simplejpeg: ways['bits flipped in a JPEG'] = (rich[:mid]+b'\xff\x00'*60+rich[mid+120:], 'corrupt')
    else: ways['a folder'] = (lambda p: p.mkdir(), 'unreadable')
    return ways


def test_sixty_of_a_thousand_damaged_in_twelve_ways(tmp_path):
    ways = damages()
    assert len(ways) == 12 and {r for _,r in ways.values()} <= set(reasons)
    rng,names,expected = np.random.default_rng(0),[f'{i//100}/{i:03}.jpg' for i in range(1000)],{}
    hit = dict(zip(rng.permutation(1000)[:60].tolist(), [w for w in ways for _ in range(5)], strict=True))
    good = [saved(pixels(i, 36, 36)) for i in range(20)]
    for i,n in enumerate(names):
        p = tmp_path/'images'/n
        p.parent.mkdir(parents=True, exist_ok=True)
        what,reason = ways[hit[i]] if i in hit else (good[i%20], None)
        if callable(what): what(p)
        else: p.write_bytes(what)
        if reason: expected[n] = reason
    st = store(names, tmp_path/'cache', tmp_path/'images', size=32, progress=False)
    assert dict(zip(st.bad.name, st.bad.reason)) == expected and len(expected) == 60
    assert len(st) == 940 and sorted({*st.rows.tolist(), *hit}) == list(range(1000))
    decoded = [Decode(32)(g) for g in good]
    assert all(np.array_equal(x, decoded[r%20]) for x,r in zip(st.array, st.rows)), 'the right picture in the right row'
    table = st.bad
    assert list(table.columns) == ['row','name','reason','detail'] and len(table) == 60 and table.detail.str.len().min() > 3
    with pytest.raises(StoreError, match=r'60 of 1000 images.*bad\.csv'): store(names, tmp_path/'cache', tmp_path/'images', size=32, strict=True, progress=False)


@pytest.mark.skipif(sys.platform == 'win32', reason='such names are not allowed there')
def test_the_list_of_bad_images_holds_whatever_names_hold(tmp_path):
    "As both the store and the stream write it."
    from granularity_nb.data.stream import FileImages
    names = ['a,b.jpg', 'a "quoted" one.jpg', 'two\nlines.jpg', 'a\rreturn.jpg', '007.jpg', 'ü.jpg']
    for o in names: (tmp_path/o).write_bytes(b'')
    Image.fromarray(pixels()).save(tmp_path/'ok.jpg')
    st = store([*names, 'ok.jpg'], tmp_path/'cache', tmp_path, 8, progress=False)
    assert list(st.bad.name) == names and list(st.bad.row) == list(range(6)) and set(st.bad.reason) == {'empty'}
    FileImages([*(str(tmp_path/o) for o in names), str(tmp_path/'ok.jpg')], 8, bad=tmp_path/'bad.csv').fetch(range(7))
    listed = pd.read_csv(tmp_path/'bad.csv', names=['row','name','reason','detail'])
    assert [Path(o).name for o in listed.name] == names and list(listed.row) == list(range(6)) and listed.iloc[:,2:].equals(st.bad.iloc[:,2:])


def test_progress_on_a_terminal(photos, tmp_path, monkeypatch, capsys):
    "A bar of several shards; none of one shard, where it is not wanted, or in a log file."
    names,root = photos
    monkeypatch.setattr(module, '_shards', lambda n, each: [(a, min(a+4, n)) for a in range(0, n, 4)])
    def drawn(tty, **kw):
        monkeypatch.setattr(sys.stdout, 'isatty', lambda: tty)
        store(names, tmp_path/f'{tty}{kw}', root, size=8, **kw)
        return 'shards decoded' in capsys.readouterr().out
    assert drawn(True) and not drawn(False) and not drawn(True, progress=False)
    monkeypatch.setattr(module, '_shards', lambda n, each: [(0, n)])
    assert not drawn(True, key=None)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path/'pipe.jpg')
    with pytest.raises(ImageError, match='unreadable: not a regular file'): Decode(8)(tmp_path/'pipe.jpg')


def test_names_of_bad_images_stay_text(tmp_path):
    for o in ('007', '1e3', 'NA', 'true', '12'): (tmp_path/o).write_bytes(b'')
    (tmp_path/'ok').write_bytes(saved(pixels()))
    st = store(['007','1e3','12','ok'], tmp_path/'cache', tmp_path, 8, progress=False)
    assert st.bad.name.tolist() == ['007','1e3','12']
    assert store(['NA','true','ok'], tmp_path/'cache', tmp_path, 8, progress=False).bad.name.tolist() == ['NA','true']


SECRET = b'PASSWORD=hunter2;qX7zKw9Jv0Lb4NmRt5Yc8Ud3'

def test_strange_files_are_one_line_each(tmp_path):
    "Links to themselves, secrets, devices and pipes, sparse files: listed, unread, unquoted."
    from granularity_nb.data.source import Files
    from granularity_nb.data.stream import FileImages
    d = tmp_path/'d'
    d.mkdir()
    (d/'self.jpg').symlink_to('self.jpg')
    (tmp_path/'secret').write_bytes(SECRET)
    for i,head in enumerate((b'', b'P5\n', b'P6 ', b'BM', b'II*\0', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'GIF89a', b'RIFF')): # as a format, too, whose reader might quote them
        (tmp_path/f'secret{i}').write_bytes(head+SECRET)
        (d/f'key{i}.png').symlink_to(tmp_path/f'secret{i}')
    (d/'null.png').symlink_to('/dev/zero')
    (d/'status.png').symlink_to('/proc/self/status')
    os.mkfifo(d/'pipe.jpg')
    (d/'ok.jpg').write_bytes(saved(pixels()))
    with open(d/'sparse.png', 'wb') as f: f.truncate(2**40)
    files = Files.find(d)
    st = store(files.relative(), tmp_path/'cache', d, 8, progress=False)
    expected = {'self.jpg': 'unreadable', 'null.png': 'unreadable', 'pipe.jpg': 'unreadable', 'sparse.png': 'too large', 'status.png': 'empty'}
    got = dict(zip(st.bad.name, st.bad.reason))
    assert len(files) == len(st.bad)+1 and expected.items() <= got.items() and [st.names[i] for i in st.rows] == ['ok.jpg']
    x = FileImages(files, 8, bad=tmp_path/'bad.csv')
    assert x.fetch(range(len(files)))[1].sum() == 1
    for text in ((st.folder/'bad.csv').read_text(), (tmp_path/'bad.csv').read_text()): assert len(text.splitlines()) in (14, 15) and not any(SECRET[i:i+4].decode() in text for i in range(len(SECRET)-4))


def test_only_formats_that_we_list_are_opened(tmp_path, monkeypatch):
    "Pillow would hand PostScript to Ghostscript."
    from PIL import EpsImagePlugin
    (tmp_path/'x.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n')
    ran = []
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *a, **kw: ran.append(a))
    for o in (tmp_path/'x.jpg', (tmp_path/'x.jpg').read_bytes()):
        for f in (Decode(4), decoded):
            with pytest.raises(ImageError, match='not an image'): f(o)
    for kind in ('ICO','TGA','PCX','SGI'):
        with pytest.raises(ImageError): Decode(4)(saved(pixels(), kind))
    assert not ran


def test_budgets_can_be_changed(tmp_path):
    (tmp_path/'a.png').write_bytes(saved(pixels(), 'PNG'))
    n = (tmp_path/'a.png').stat().st_size
    for o,kw,says in ((tmp_path/'a.png', dict(max_bytes=n-1), 'max_bytes'), (tmp_path/'a.png', dict(max_pixels=40*56-1), 'max_pixels'), (Image.fromarray(pixels()), dict(max_pixels=9), 'max_pixels')):
        with pytest.raises(ImageError, match=f'too large.*{says}'): Decode(8, **kw)(o)
        with pytest.raises(ImageError, match=f'too large.*{says}'): decoded(o, **kw)
    assert Decode(8, max_bytes=n, max_pixels=40*56)(tmp_path/'a.png').shape == (8,8,3)
    st = store(['a.png','b.png'], tmp_path/'cache', tmp_path, 8, max_bytes=n-1, progress=False)
    assert st.bad.reason.tolist() == ['too large','missing'] and len(store(['a.png'], tmp_path/'cache', tmp_path, 8, max_bytes=n, progress=False)) == 1


def test_whatever_goes_wrong_with_one_image_is_one_line(tmp_path, monkeypatch):
    (tmp_path/'odd.png').write_bytes(saved(pixels(0, 3, 3), 'PNG'))
    (tmp_path/'ok.jpg').write_bytes(saved(pixels()))
    resized = module._resized
    def fails(im, *a):
        if im.size == (3,3): raise ValueError('conversion not supported')
        return resized(im, *a)
    monkeypatch.setattr(module, '_resized', fails)
    bad = store(['odd.png','ok.jpg'], tmp_path/'cache', tmp_path, 8, progress=False).bad
    assert bad.reason.tolist() == ['unsupported'] and bad.detail.tolist() == ['ValueError: conversion not supported']


def test_a_cache_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    with pytest.raises(StoreError, match='cannot be made .*GRANULARITY_CACHE'): store(photos[0], tmp_path/'file'/'cache', photos[1], progress=False)
    monkeypatch.setattr(module.os, 'access', lambda *a: False) # the tests may run as root, who may write everywhere
    with pytest.raises(StoreError, match='cannot be written to'): store(photos[0], tmp_path/'cache', photos[1], progress=False)


def test_a_budget_that_is_changed_for_all(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'MAX_BYTES', 100)
    with pytest.raises(ImageError, match='more than the 100 allowed'): Decode(8)(photos[1]/photos[0][0])
    with pytest.raises(ImageError, match='more than the 100 allowed'): decoded(photos[1]/photos[0][0])
    monkeypatch.setenv('BUDGET', '12')
    assert module._budget('BUDGET', 3) == 12 and module._budget('NO_BUDGET', 3) == 3
    for wrong in ('0','-1','1e3','many'):
        monkeypatch.setenv('BUDGET', wrong)
        with pytest.raises(StoreError, match=f"BUDGET must be a whole number from 1, not '{wrong}'"): module._budget('BUDGET', 3)


def test_too_many_open_files_is_no_fault_of_an_image(photos, tmp_path, monkeypatch):
    def none_left(*a): raise OSError(24, 'Too many open files')
    with monkeypatch.context() as m:
        m.setattr(module.os, 'stat', none_left)
        with pytest.raises(StoreError, match='no fault of the file') as e: Decode(8)(photos[1]/photos[0][0])
    assert not isinstance(e.value, ImageError)


def test_without_pread(photos, tmp_path, monkeypatch):
    "As on Windows: a store is built and read, and members of an archive."
    import tarfile
    from granularity_nb.data.stream import TarFiles
    names,root = photos
    with tarfile.open(tmp_path/'a.tar', 'w') as t: t.add(root, arcname='')
    (root/names[4]).write_bytes(b'')
    whole = store(names, tmp_path/'with', root, progress=False)
    for o in ('pread','pwrite'): monkeypatch.delattr(os, o)
    st = store(names, tmp_path/'without', root, progress=False)
    assert np.array_equal(st.array, whole.array) and np.array_equal(st.rows, whole.rows)
    t = TarFiles.find(tmp_path)
    assert t.read(3) == (root/os.fsdecode(t.name[3])).read_bytes()


@fast
def test_stray_bytes_before_the_end_are_no_damage():
    a = saved(pixels())
    assert np.array_equal(Decode((40,56))(a[:-2]+b'abc'+a[-2:]), Decode((40,56))(a))


def test_names_that_are_awkward_survive_the_table(tmp_path):
    names = ['a,b.jpg', 'say "hi".jpg', 'line\nbreak.jpg', 'ünï.jpg']
    for n in names: (tmp_path/n).write_bytes(b'')
    (tmp_path/'ok.jpg').write_bytes(saved(pixels()))
    st = store([*names, 'ok.jpg'], tmp_path/'cache', tmp_path, 8, progress=False)
    assert st.bad.name.tolist() == names and st.rows.tolist() == [4]


# ---- keys

def test_a_store_is_opened_only_for_the_same_content_and_transform(photos, tmp_path):
    names,root = photos
    def get(names=names, **kw): return store(names, tmp_path/'cache', root, **dict(dict(size=32, progress=False), **kw))
    first = get()
    assert get().key == first.key
    others = [get(size=16), get(mode='L'), get(size=16, fit='pad'), get(names=names[::-1]), get(names=names[:-1])]
    assert len({first.key, *(o.key for o in others)}) == 6
    data = saved(pixels(77, 32, 32))
    (root/names[3]).write_bytes(data)
    new = get()
    assert new.key != first.key and np.array_equal(new.array[3], Decode(32)(data)), 'never a stale picture'
    assert np.array_equal(Store(first.folder).array[3], first.array[3]), 'who reads the old one goes on'


def test_verify_finds_changes_that_times_do_not_show(photos, tmp_path):
    names,root = photos
    st = store(names, tmp_path/'cache', root, progress=False)
    p = root/names[5]
    before,data = p.stat().st_mtime_ns, bytearray(p.read_bytes())
    data[-9] ^= 1
    p.write_bytes(data)
    os.utime(p, ns=(before, before))
    assert st.verify(root) == [names[5]]


def test_what_times_do_not_show_is_seen_all_the_same(photos, tmp_path, monkeypatch):
    "Rewritten in place with its old size and date: another store; a copy with its dates: the same one, after reading it once."
    import shutil
    names,root = photos
    get = lambda root=root, **kw: store(names, tmp_path/'cache', root, 8, progress=False, **kw)
    def rewrite(data):
        t = (root/names[5]).stat().st_mtime_ns
        (root/names[5]).write_bytes(data)
        os.utime(root/names[5], ns=(t, t))
    first,data = get(),(root/names[5]).read_bytes()
    other = saved(pixels(99, 32, 32))
    rewrite((other+bytes(len(data)))[:len(data)])
    second = get()
    assert second.key != first.key and np.array_equal(second.array[5], Decode(8)(root/names[5])) and not np.array_equal(second.array[5], first.array[5])
    assert np.array_equal(second.array[:5], first.array[:5]) and get().key == second.key
    rewrite(data)
    assert get().key == first.key, 'put back'
    shutil.copytree(root, tmp_path/'copy')
    for o in names: os.utime(tmp_path/'copy'/o, ns=((root/o).stat().st_mtime_ns,)*2)
    read = []
    digest = module._digest
    monkeypatch.setattr(module, '_digest', lambda path, *a: read.append(path) or digest(path, *a))
    for _ in range(3): assert get(tmp_path/'copy').key == get().key == first.key
    assert len(read) == 12, 'each copy is read once'
    (tmp_path/'copy'/names[0]).unlink()
    assert get(tmp_path/'copy').bad.reason.tolist() == ['missing']


def test_same_content_has_the_same_digest(photos, tmp_path):
    names,root = photos
    (root/'copy.jpg').write_bytes((root/names[2]).read_bytes())
    st = store([*names, 'copy.jpg'], tmp_path/'cache', root, progress=False)
    assert np.array_equal(st.digests[2], st.digests[12]) and len(np.unique(st.digests, axis=0)) == 12


def test_pictures_of_a_dataset(tmp_path):
    class Pictures:
        def __len__(self): return 5
        def __getitem__(self, i): return Image.fromarray(pixels(i)), i
    with pytest.raises(StoreError, match='key='): store(Pictures(), tmp_path)
    st = store(Pictures(), tmp_path, size=(40,56), key='five pictures', progress=False)
    assert all(np.array_equal(x, pixels(i)) for i,x in enumerate(st.array))
    named = [dict(image=Image.fromarray(pixels(i)), label=i) for i in range(3)]
    assert np.array_equal(store(named, tmp_path, size=(40,56), key='as of Hugging Face', progress=False).array, st.array[:3])


def test_a_dataset_that_raises(tmp_path):
    class Broken:
        def __init__(self, bad): self.bad = bad
        def __len__(self): return 4
        def __getitem__(self, i):
            if i in self.bad: raise [Image.UnidentifiedImageError('cannot identify'), KeyError('x'), OSError(), ValueError('no')][i]
            return Image.fromarray(pixels(i)), 0
    st = store(Broken({0, 2}), tmp_path, size=8, key='two', progress=False)
    assert st.bad.row.tolist() == [0, 2] and set(st.bad.reason) == {'unreadable'} and st.bad.detail.str.contains('Unidentified|OSError').all()
    with pytest.raises(StoreError, match="none of the 4 pictures of 'all' can be used; the first: unreadable"): store(Broken({0,1,2,3}), tmp_path, size=8, key='all', progress=False)
    assert len(store(Broken({}), tmp_path, size=8, key='all', progress=False)) == 4, 'mended'


def test_nothing_to_store_is_said(tmp_path):
    with pytest.raises(StoreError, match='no files'): store([], tmp_path)
    with pytest.raises(StoreError, match='none of the 1 files exists.*gone.jpg'): store(['gone.jpg'], tmp_path, tmp_path)
    with pytest.raises(StoreError, match='no finished store'): Store(tmp_path)


def test_only_bad_images_make_an_empty_store(tmp_path):
    (tmp_path/'a.jpg').write_bytes(b'')
    st = store(['a.jpg'], tmp_path/'cache', tmp_path, progress=False)
    assert len(st) == 0 and st.array.shape == (0,32,32,3) and len(st.bad) == 1


@pytest.mark.parametrize('bad', [[], [0], [5], [0,5], [4,5], [0,1,2], [1,3,4], [0,1,2,3,4,5]])
def test_holes_are_filled_from_the_end(bad):
    rows = module._good_rows(6, bad)
    assert sorted(rows.tolist()) == [i for i in range(6) if i not in bad]
    assert all(r == i for i,r in enumerate(rows) if i not in bad), 'good images keep their places'


# ---- faults

def test_a_full_disk_is_foreseen(photos, tmp_path, monkeypatch):
    import shutil
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: type('', (), dict(free=1000)))
    with pytest.raises(StoreError, match='needs 0.0 GB.*free'): store(photos[0], tmp_path/'cache', photos[1], progress=False)


def test_a_full_disk_in_between_loses_nothing(photos, tmp_path, monkeypatch):
    names,root = photos
    monkeypatch.setattr(module, '_shards', lambda n, each: [(a, min(n, a+4)) for a in range(0, n, 4)])
    write = module._Part.write
    def full(self, a, p):
        if a == 8: raise OSError(28, 'No space left on device')
        write(self, a, p)
    with monkeypatch.context() as m:
        m.setattr(module._Part, 'write', full)
        with pytest.raises(StoreError, match='No space left'): store(names, tmp_path/'cache', root, workers=1, progress=False)
    calls = []
    decode = module._decode_shard
    monkeypatch.setattr(module, '_decode_shard', lambda items, d, a, b, stop: calls.append(a) or decode(items, d, a, b, stop))
    st = store(names, tmp_path/'cache', root, progress=False)
    assert calls == [8], 'only what is missing'
    assert all(np.array_equal(x, Decode(32)(root/n)) for x,n in zip(st.array, names))


def test_a_file_that_grows_meanwhile_stops_the_store(photos, tmp_path, monkeypatch):
    names,root = photos
    look = module._Files._look
    monkeypatch.setattr(module._Files, '_look', lambda self: (look(self)[0]-1, *look(self)[1:]))
    with pytest.raises(StoreError, match='changed while it was being stored'): store(names, tmp_path/'cache', root, progress=False)
    assert not list((tmp_path/'cache').glob('*/store.json'))


def test_a_copy_that_was_cut_off_is_not_read(photos, tmp_path):
    st = store(*photos[:1], tmp_path/'cache', photos[1], progress=False)
    with open(st.folder/'images.npy', 'r+b') as f: f.truncate(5000)
    with pytest.raises(StoreError, match='5,000 bytes instead of'): Store(st.folder)


@pytest.mark.parametrize('torn', ['pixels', 'record'])
def test_torn_writes_are_done_again(photos, tmp_path, torn):
    names,root = photos
    items,part = module._Files(names, root), module._Part(tmp_path/'part', 12, (32,32,3))
    part.save(0, 12, *module._decode_shard(items, Decode(32), 0, 12, __import__('threading').Event()))
    assert part.load(0, 12)
    if torn == 'pixels': part.write(7, np.zeros(100, np.uint8))
    else: part.record(0).write_text(part.record(0).read_text()[:30])
    assert part.load(0, 12) is None


BUILD = """
import sys, time
from granularity_nb.data import store as m
m._shards = lambda n, each: [(a, min(n, a+10)) for a in range(0, n, 10)]
decode = m.Decode.__call__
def slow(self, o):
    time.sleep(float(sys.argv[4]))
    return decode(self, o)
m.Decode.__call__ = slow
names = open(sys.argv[1]).read().split()
print('start', flush=True)
st = m.store(names, sys.argv[2], sys.argv[3], 32, workers=2, progress=False)
print(st.key, int(st.array.sum(dtype='int64')), flush=True)
"""


@pytest.fixture
def hundred(tmp_path):
    root = tmp_path/'hundred'
    root.mkdir()
    names = [f'{i:03}.jpg' for i in range(120)]
    for i,n in enumerate(names): (root/n).write_bytes(saved(pixels(i, 32, 32)) if i%17 else b'')
    (tmp_path/'names').write_text('\n'.join(names))
    def start(pause): return subprocess.Popen([sys.executable, '-c', BUILD, str(tmp_path/'names'), str(tmp_path/'cache'), str(root), str(pause)], stdout=subprocess.PIPE, text=True)
    return names, root, tmp_path/'cache', start


def whole(names, root, st):
    return all(np.array_equal(x, Decode(32)(root/names[r])) for x,r in zip(st.array, st.rows)) and st.bad.row.tolist() == list(range(0, 120, 17)) and len(st)+len(st.bad) == 120


def test_killed_again_and_again_nothing_wrong_is_read(hundred):
    names,root,cache,start = hundred
    for shards in (2, 5): # killed when so many are done
        p = start(.02)
        until = time.monotonic()+60
        while len(list(cache.glob('*.part/shard-*.json'))) < shards and time.monotonic() < until and p.poll() is None: time.sleep(.005)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert not list(cache.glob('*/store.json')), 'killed before it was done'
    kept = len(list(cache.glob('*.part/shard-*.json')))
    assert kept >= 5
    st = store(names, cache, root, 32, progress=False) # other shard sizes here: records that do not fit are not trusted
    assert whole(names, root, st) and not list(cache.glob('*.part'))


def test_a_killed_build_goes_on(hundred, monkeypatch):
    names,root,cache,start = hundred
    p = start(.02)
    until = time.monotonic()+60
    while len(list(cache.glob('*.part/shard-*.json'))) < 4 and time.monotonic() < until and p.poll() is None: time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = {int(f.stem.split('-')[1]) for f in cache.glob('*.part/shard-*.json')}
    monkeypatch.setattr(module, '_shards', lambda n, each: [(a, min(n, a+10)) for a in range(0, n, 10)])
    again,decode = set(),module._decode_shard
    monkeypatch.setattr(module, '_decode_shard', lambda items, d, a, b, stop: again.add(a) or decode(items, d, a, b, stop))
    st = store(names, cache, root, 32, progress=False)
    assert len(kept) >= 4 and again == set(range(0, 120, 10))-kept and whole(names, root, st)


def test_two_processes_want_the_same_store(hundred):
    names,root,cache,start = hundred
    ps = [start(.01), start(.01)]
    outs = [p.communicate(timeout=120)[0].split() for p in ps]
    assert [p.returncode for p in ps] == [0,0] and outs[0][-2:] == outs[1][-2:]
    assert 'waiting' in ' '.join(outs[0]+outs[1]), 'one built, the other waited'
    assert len(list(cache.glob('*/store.json'))) == 1 and whole(names, root, Store(next(cache.glob('*/store.json')).parent))


def test_without_locks_both_build_and_one_store_is_left(hundred, monkeypatch):
    from contextlib import contextmanager
    from concurrent.futures import ThreadPoolExecutor
    names,root,cache,_ = hundred
    @contextmanager
    def none(path, say=print): yield False
    monkeypatch.setattr(module, '_lock', none)
    with ThreadPoolExecutor(2) as pool: got = list(pool.map(lambda _: store(names, cache, root, 32, workers=1, progress=False), range(2)))
    assert got[0].key == got[1].key and whole(names, root, got[0]) and not list(cache.glob('*.part*'))
