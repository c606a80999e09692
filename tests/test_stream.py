"Streaming: files and tar members give the pixels that a store gives, whatever the number of workers; what is bad is left out with its label."
import csv, io, os, pickle, re, tarfile
import numpy as np, pytest, torch
from PIL import Image
from granularity_nb.data.block import dataloaders, relabel
from granularity_nb.data.source import Files, Source, SourceWarning, Split
from granularity_nb.data.store import Decode, ImageError, StoreError, store
from granularity_nb.data.stream import FileImages, TarFiles, stream
from granularity_nb.labels.hierarchy import Hierarchy
from granularity_nb.labels.reading import image_types

BREEDS = {'poodle': 'dog', 'beagle': 'dog', 'tabby': 'cat'}


@pytest.fixture
def folder(tmp_path):
    "Thirty pictures in three folders; how bright a picture is tells its breed."
    rng = np.random.default_rng(0)
    for k,b in enumerate(BREEDS):
        (tmp_path/'pets'/b).mkdir(parents=True)
        for i in range(10): Image.fromarray(np.clip(rng.normal(60+60*k, 4, (20,24,3)), 0, 255).astype(np.uint8)).save(tmp_path/'pets'/b/f'{i}.jpg', quality=95)
    return tmp_path/'pets'


@pytest.fixture
def listed(folder):
    files = Files.find(folder)
    h = Hierarchy.from_edges([*BREEDS.items(), ('dog','animal'), ('cat','animal')])
    leaf = np.array([h.leaves.index(files[i].split('/')[-2]) for i in range(30)])
    valid = np.arange(30)%5 == 0
    return Source('pets', h, {k: Split(files[np.flatnonzero(o)], leaf[o]) for k,o in dict(train=~valid, valid=valid).items()}, h.at(['dog','cat']))


def pack(folder, to, kind='w'):
    to.mkdir()
    for b in BREEDS:
        with tarfile.open(to/f'{b}.tar', kind) as t: t.add(folder/b, arcname=b)
    return to


def test_pixels_are_those_of_the_store(folder, tmp_path):
    files = Files.find(folder)
    x,st = FileImages(files, 16), store(files.relative(), tmp_path/'cache', folder, 16, progress=False)
    assert x.shape == st.array.shape and x.dtype == np.uint8 and x.ndim == 4 and len(x) == 30
    for rows in (slice(None), slice(3, 9), [5,2,2], np.arange(30)%2 == 0, np.array([-1])): assert np.array_equal(x[rows], st.array[rows])
    assert np.array_equal(x[7], st.array[7])
    assert FileImages(files, (8,12), 'L').shape == (30,8,12)


def test_loaders_are_the_same_from_files_and_store_for_any_workers(listed, folder, tmp_path):
    st = {k: store([s.files[i] for i in range(len(s))], tmp_path/'cache', None, 16, progress=False) for k,s in listed.splits.items()}
    stored = listed.but(splits={k: Split(st[k].array, s.leaf) for k,s in listed.splits.items()})
    streamed = stream(listed, 16, stats=stored.split('train').stats)
    got = []
    for source,workers in ((stored,0), (streamed,0), (streamed,2), (streamed,3)):
        dls = dataloaders(source, source.target, bs=7, augment='crop:2+flip', num_workers=workers, device='cpu')
        dls.train.seed(3)
        got.append([(b[0].clone(), b[1].clone()) for _ in range(2) for b in dls.train]+[(b[0], b[1]) for b in dls.valid])
    for o in got[1:]: assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a,b in zip(got[0], o, strict=True))


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_images_are_left_out_with_their_labels(listed, folder, tmp_path, workers):
    (folder/'tabby'/'3.jpg').write_bytes(b'')
    (folder/'poodle'/'6.jpg').write_bytes(b'<html>')
    streamed = stream(listed, 16, bad=tmp_path/'bad.csv')
    dls = dataloaders(streamed, listed.hierarchy.level(0), bs=8, num_workers=workers, device='cpu')
    x,y = (torch.cat(o) for o in zip(*[(b[0], b[1]) for b in dls.train]))
    assert len(x) == len(y) == 22
    brightness = (dls.train.decode((x, y))[0].float().mean((1,2,3))-60)/60*1.0
    breed = {'poodle': 0, 'beagle': 1, 'tabby': 2}
    assert [round(float(b)) for b in brightness] == [breed[dls.vocab[i]] for i in y], 'each label beside its own picture'
    rows = list(csv.reader((tmp_path/'bad.csv').open()))
    assert {(r[1].split('/')[-2]+'/'+r[1].split('/')[-1], r[2]) for r in rows} == {('tabby/3.jpg','empty'), ('poodle/6.jpg','not an image')}
    coarse = relabel(dls, listed.target)
    assert sum(len(b[1]) for b in coarse.train) == 22 and coarse.c == 2


def test_strict_and_a_disk_that_is_gone(listed, folder):
    (folder/'tabby'/'3.jpg').write_bytes(b'')
    with pytest.raises(StoreError, match='tabby/3.jpg: empty'): stream(listed, 16, strict=True)
    streamed = stream(listed, 16)
    dls = dataloaders(streamed, listed.target, bs=8, device='cpu')
    folder.rename(folder.parent/'elsewhere')
    with pytest.raises(StoreError, match='is the disk still there'): list(dls.train)


def test_a_source_without_files_cannot_be_streamed():
    h = Hierarchy.from_edges([('a','b')])
    with pytest.raises(StoreError, match='no files to stream'): stream(Source('x', h, dict(train=Split(np.zeros((2,4,4), np.uint8), [0,0])), h.level(0)))


# ---- archives

def test_members_are_the_files(folder, tmp_path):
    t = TarFiles.find(pack(folder, tmp_path/'tars'))
    files = Files.find(folder)
    ours = {t[i].split('.tar/')[1]: t.read(i) for i in range(len(t))}
    assert ours == {p: (folder/p).read_bytes() for p in files.relative()}
    assert np.array_equal(FileImages(t[np.array([4,2])], 16)[0], Decode(16)(t.read(4)))


def test_archives_hold_images_of_the_kinds_that_folders_do(tmp_path):
    names = [f'x{o.upper() if i%2 else o}' for i,o in enumerate(image_types)]
    for o in (*names, 'jpg', 'x.txt', 'xjpg'): (tmp_path/o).write_bytes(b'-')
    (tmp_path/'tars').mkdir()
    with tarfile.open(tmp_path/'tars'/'a.tar', 'w') as t:
        for o in sorted((*names, 'jpg', 'x.txt', 'xjpg')): t.add(tmp_path/o, arcname=o)
    assert sorted(TarFiles.find(tmp_path/'tars').name.astype(str)) == sorted(Files.find(tmp_path).relative()) == sorted(names)


def test_the_list_is_kept_until_an_archive_changes(folder, tmp_path, monkeypatch):
    from granularity_nb.data import stream as module
    tars,index = pack(folder, tmp_path/'tars'), tmp_path/'index.parquet'
    first = TarFiles.find(tars, index)
    with monkeypatch.context() as m:
        m.setattr(module, '_members', None) # not looked into again
        again = TarFiles.find(tars, index)
    assert all(np.array_equal(getattr(first, o), getattr(again, o)) for o in ('tar','name','offset','size')) and first.tars == again.tars
    with tarfile.open(tars/'poodle.tar', 'a') as t: t.add(folder/'tabby'/'0.jpg', arcname='late.jpg')
    assert len(TarFiles.find(tars, index)) == 31


def test_archives_that_are_cut_off_compressed_or_gone(folder, tmp_path):
    tars = pack(folder, tmp_path/'tars')
    t = TarFiles.find(tars)
    with open(tars/'tabby.tar', 'r+b') as f: f.truncate(3000)
    (tars/'poodle.tar').unlink()
    x = FileImages(t, 16, bad=tmp_path/'bad.csv')
    _,ok = x.fetch(np.arange(30))
    reasons = {r[2] for r in csv.reader((tmp_path/'bad.csv').open())}
    assert ok.sum() >= 10 and reasons == {'truncated','missing'}
    with pytest.raises(StoreError, match='no .tar file'): TarFiles.find(folder)
    with pytest.raises(StoreError, match='not an uncompressed tar'): TarFiles.find(pack(folder, tmp_path/'gz', 'w:gz'))


# ---- archives that are damaged, or of other kinds

@pytest.fixture
def hundred(tmp_path):
    "An archive of a hundred pictures, and where their headers are."
    (tmp_path/'t').mkdir()
    with tarfile.open(tmp_path/'t'/'a.tar', 'w') as t:
        for i in range(100): add(t, f'{i:03}.jpg', b'x'*(700+i))
    with tarfile.open(tmp_path/'t'/'a.tar') as t: return tmp_path/'t', [m.offset for m in t]

def add(t, name, data=None, **kw):
    data = (b'' if 'type' in kw else b'x') if data is None else data
    m = tarfile.TarInfo(name)
    m.size = len(data)
    for k,v in kw.items(): setattr(m, k, v)
    t.addfile(m, io.BytesIO(data))

def harmed(at, tar, how):
    b = bytearray(tar)
    if how == 'bit': b[at+300] ^= 4
    if how == 'zeros': b[at:at+512] = bytes(512)
    if how == 'cut before a header': del b[at:]
    if how == 'cut within a header': del b[at+200:]
    if how == 'cut within a picture': del b[at+700:]
    if how == 'no end': del b[len(bytes(b).rstrip(b'\0'))//512*512+512:]
    if how == 'garbage behind': b += b'garbage'
    if how == 'joined': b += tar
    if how == 'too long': # a size that the checksum agrees with
        m = tarfile.TarInfo.frombuf(bytes(b[at:at+512]), 'utf-8', 'surrogateescape')
        m.size = 2**40
        b[at:at+512] = m.tobuf(tarfile.GNU_FORMAT)
    return bytes(b)

@pytest.mark.parametrize('how', ['bit', 'zeros', 'cut before a header', 'cut within a header', 'cut within a picture', 'no end', 'garbage behind', 'joined', 'too long'])
@pytest.mark.parametrize('k', [0, 50])
def test_damaged_archives_are_refused_by_name_and_place(hundred, tmp_path, how, k):
    folder,at = hundred
    tar = (folder/'a.tar').read_bytes()
    assert len(TarFiles.find(folder)) == 100
    (folder/'a.tar').write_bytes(harmed(at[k], tar, how))
    with pytest.raises(StoreError, match=r'a\.tar') as e: TarFiles.find(folder, tmp_path/'index.parquet')
    assert k == 0 or re.search(r'byte \d', str(e.value)), e.value
    if how in ('bit','zeros') and k: assert f'{at[50]:,}' in str(e.value)
    assert not (tmp_path/'index.parquet').exists()

def test_archives_of_every_kind(tmp_path):
    "Long names in three formats, hard and symbolic links, an updated member, hidden files, pipes called like images."
    (tmp_path/'t').mkdir()
    long = 'd'*90+'/'+'e'*120+'/x.jpg'
    for name,kind in dict(gnu=tarfile.GNU_FORMAT, pax=tarfile.PAX_FORMAT, old=tarfile.USTAR_FORMAT).items():
        with tarfile.open(tmp_path/'t'/f'{name}.TAR', 'w', format=kind) as t:
            if name != 'old': add(t, long, b'long')
            add(t, './b/1.jpg', b'first')
            add(t, 'b/hard.jpg', type=tarfile.LNKTYPE, linkname='b/1.jpg')
            add(t, 'c/soft.jpg', type=tarfile.SYMTYPE, linkname='../b/hard.jpg')
            add(t, 'c/lost.jpg', type=tarfile.SYMTYPE, linkname='nowhere.jpg')
            add(t, 'c/circle.jpg', type=tarfile.SYMTYPE, linkname='circle.jpg')
            add(t, 'pipe.jpg', type=tarfile.FIFOTYPE)
            add(t, 'folder.jpg', type=tarfile.DIRTYPE)
            for o in ('b/._1.jpg', '.trash/2.jpg', 'b/notes.txt'): add(t, o)
            add(t, 'b/1.jpg', b'second')
    t = TarFiles.find(tmp_path/'t')
    got,bad = {},set()
    for i in range(len(t)):
        try: got[t[i].split('/t/')[1]] = t.read(i)
        except ImageError as e: bad.add((t[i].split('.TAR/')[1], e.reason))
    for name in ('gnu','pax','old'):
        assert {k.split('.TAR/')[1].removeprefix('./'): v for k,v in got.items() if k.startswith(name)} == {'b/1.jpg': b'second', 'b/hard.jpg': b'second', 'c/soft.jpg': b'second'} | ({long: b'long'} if name != 'old' else {})
    assert bad == {(o, 'missing') for o in ('c/lost.jpg','c/circle.jpg','pipe.jpg')}

def test_what_an_archive_cannot_be(tmp_path):
    (tmp_path/'t').mkdir()
    os.mkfifo(tmp_path/'t'/'a.tar')
    with pytest.raises(StoreError, match='a.tar is no regular file'): TarFiles.find(tmp_path/'t')
    os.unlink(tmp_path/'t'/'a.tar')
    with tarfile.open(tmp_path/'t'/'a.tar', 'w', format=tarfile.PAX_FORMAT) as t: add(t, 'holes.jpg', b'0\n'+bytes(510), pax_headers={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'holes.jpg', 'GNU.sparse.realsize': '9'})
    with pytest.raises(StoreError, match=r'a.tar: member .*holes.jpg.* with holes'): TarFiles.find(tmp_path/'t')
    with open(tmp_path/'t'/'a.tar', 'wb') as f: f.truncate(2**40)
    with pytest.raises(StoreError, match='ends at byte 0, but the file goes on'): TarFiles.find(tmp_path/'t')

def test_a_kept_list_is_made_anew_if_it_does_not_hold(hundred, tmp_path):
    folder,at = hundred
    index = tmp_path/'index.parquet'
    t = TarFiles.find(folder, index)
    s = os.stat(folder/'a.tar')
    t[:50].save(index, str([('a.tar', s.st_size, s.st_mtime_ns)])) # as versions before wrote it of a damaged archive
    assert len(TarFiles.find(folder, index)) == 100
    index.write_bytes(b'PAR1 no more')
    assert len(TarFiles.find(folder, index)) == len(TarFiles.find(folder, index)) == 100
    (folder/'a.tar').write_bytes(harmed(at[50], (folder/'a.tar').read_bytes(), 'bit'))
    os.utime(folder/'a.tar', ns=(s.st_mtime_ns, s.st_mtime_ns)) # rewritten in place: same size, same time
    with pytest.raises(StoreError, match='is damaged'): TarFiles.find(folder, index)

def test_what_is_left_out_of_archives_is_said(tmp_path):
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        for o in ('1.jpg','2.HEIC','3.heic','4.cls','5.json','README'): add(t, o)
    (tmp_path/'b.TAR.GZ').write_bytes(b'')
    for _ in range(2): # found, and from the kept list
        with pytest.warns(SourceWarning) as said: assert len(TarFiles.find(tmp_path, tmp_path/'index')) == 1
        first,second = map(str, (o.message for o in said))
        assert first.startswith(f'3 files in the archives below {tmp_path} are not read (2 .heic, 1 .cls); images are known') and second == f'1 compressed archives below {tmp_path} are left out, such as b.TAR.GZ: unpack them to .tar first'

def test_errors_and_images_go_to_other_processes(listed, folder):
    (folder/'tabby'/'3.jpg').write_bytes(b'')
    x = stream(listed, 16).split('train').images
    _,ok = x.fetch(range(24))
    assert pickle.loads(pickle.dumps(x)).fetch(range(24))[1].tolist() == ok.tolist()
    e = pickle.loads(pickle.dumps(ImageError('empty', 'a file of zero bytes', 'a.jpg')))
    assert (e.reason, e.detail, str(e)) == ('empty', 'a file of zero bytes', 'a.jpg: empty: a file of zero bytes')
    with pytest.raises(StoreError, match='bad.csv: there is no such folder'): stream(listed, 16, bad=folder/'nowhere'/'bad.csv')

def test_archives_have_an_identity(hundred, tmp_path):
    folder,_ = hundred
    t,h = TarFiles.find(folder),Hierarchy.from_edges([('a','b')])
    s = Split(FileImages(t, 8), [0]*100)
    assert s.digest == t.digest == t[np.arange(100)].digest != t[:99].digest and s.take(range(9)).digest == t[:9].digest
    renamed = TarFiles(folder, t.tars, t.tar, t.name, t.offset, t.size+1)
    assert renamed.digest != t.digest
    twice = Source('x', h, dict(train=Split(FileImages(t, 8), [0]*100), test=Split(FileImages(t[[7, 3]], 8), [0, 0])), h.level(0)).leakage()
    assert twice.again.tolist() == ['a.tar/007.jpg','a.tar/003.jpg'] and twice.image.tolist() == twice.again.tolist()

def test_a_table_of_the_user_is_not_taken_for_a_list_of_bad_images(listed, tmp_path):
    for text in ('path,label\na.jpg,cat\n', 'a,b,c,d\n', '\x00\xff', '3,1,4,1\n'):
        (tmp_path/'mine.csv').write_text(text)
        with pytest.raises(StoreError, match='mine.csv.*something else'): stream(listed, 16, bad=tmp_path/'mine.csv')
        assert (tmp_path/'mine.csv').read_text() == text
    with pytest.raises(StoreError, match='something else'): stream(listed, 16, bad=tmp_path)
    (tmp_path/'mine.csv').write_text('3,"a.jpg","truncated","x"\n')
    stream(listed, 16, bad=tmp_path/'mine.csv') # an earlier run's


def test_a_subsample_of_a_stream_leaves_bad_images_out_too(listed, folder):
    (folder/'tabby'/'3.jpg').write_bytes(b'')
    some = stream(listed, 16).subsample(24)
    s = some.split('train')
    dls = dataloaders(some, listed.target, bs=8, device='cpu')
    assert sum(len(b[1]) for b in dls.train) == 23 and s.images.files.digest == s.digest == listed.split('train').digest
    alone = Split(FileImages(listed.split('train').files, 16), listed.split('train').leaf)
    at = [i for i in range(24) if alone.files[i].endswith('tabby/3.jpg')][0]
    x,ok = alone.images.fetch([at])
    assert x.shape == (0,16,16,3) and not ok.any(), 'one image is not the disk'
    with pytest.raises(StoreError, match='tabby/3.jpg cannot be used .empty'): alone.images[at]
    one = dataloaders(listed.but(splits=dict(train=alone)), listed.target, bs=1, valid=None, device='cpu')
    assert sum(len(b[1]) for b in one.train) == 23 and all(len(b[1]) for b in one.train)


def test_evaluation_and_a_probe_leave_bad_images_out(listed, folder):
    from granularity_nb.training.evaluate import evaluate
    from granularity_nb.training.transfer import linear_probe
    for o in ('tabby/0.jpg','tabby/3.jpg','poodle/6.jpg'): (folder/o).write_bytes(b'')
    source = stream(listed, 16)
    good = [not source.split('valid').files[i].endswith('tabby/0.jpg') for i in range(6)]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    net.num_features = 3
    probe = linear_probe(net, source, listed.target, grid=(1.,), device='cpu')
    with pytest.warns(UserWarning, match="1 of the 6 images of 'valid' cannot be read"): p = evaluate(probe, source, listed.target, split='valid', device='cpu')
    assert p.n == 5 and (p.truth == listed.target.encode(source.split('valid').leaf[good])).all() and not p.wrong.any()
    assert p.files.tolist() == source.split('valid').files[np.flatnonzero(good)].relative()


def test_workers_read_the_same_archives(folder, tmp_path):
    t = TarFiles.find(pack(folder, tmp_path/'tars'))
    h = Hierarchy.from_edges([*BREEDS.items(), ('dog','animal'), ('cat','animal')])
    leaf = np.array([h.leaves.index(t[i].split('.tar/')[1].split('/')[0]) for i in range(30)])
    t.read(0) # this process has an archive open before the workers are forked
    source = Source('tars', h, dict(train=Split(FileImages(t, 16), leaf)), h.level(0))
    got = []
    for workers in (0, 2):
        dls = dataloaders(source, source.target, bs=6, valid=None, num_workers=workers, device='cpu')
        dls.train.seed(0)
        got.append([(b[0], b[1]) for b in dls.train])
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a,b in zip(*got, strict=True))


def test_more_archives_than_may_be_open(folder, tmp_path):
    d = tmp_path/'many'
    d.mkdir()
    for i in range(300):
        with tarfile.open(d/f'{i:03}.tar', 'w') as t: t.add(folder/'tabby'/f'{i%10}.jpg', arcname='x.jpg')
    t = TarFiles.find(d)
    for i in [*range(300), *range(0, 300, 37)]: assert t.read(i) == (folder/'tabby'/f'{i%10}.jpg').read_bytes()
    assert len(t._fds) <= 256
