"Every known data set from a miniature of its true layout, and what wrong layouts are told."
import csv, os, pickle, shutil, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from hypothesis import given, strategies as st
from granularity_nb.data import images as module, source
from granularity_nb.data.images import SourceWarning, carve, from_datasets
from granularity_nb.data.source import Source, SourceError
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError
from granularity_nb.labels.wordnet import wnids as listed

WNIDS = sorted(listed('tiny'))[:8]

@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    "Nothing is written to, or found in, the user's own folders."
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GRANULARITY_DATA', raising=False)

def jpeg(path, value=0, size=(8,8)):
    "A grey JPEG that is unlike those of other values."
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((size[1],size[0],3), value % 256, np.uint8)
    x[0,0] = value//256 % 256
    Image.fromarray(x).save(path, 'JPEG', quality=95)

def names(source, split): return [source.hierarchy.leaves[o] for o in source.split(split).leaf]
def files(source, split): return source.split(split).files.relative()


# Tiny-ImageNet

def tiny(root, per_class=5):
    for c,w in enumerate(WNIDS):
        for i in range(per_class): jpeg(root/'train'/w/'images'/f'{w}_{i}.JPEG', 20*c+i)
        (root/'train'/w/f'{w}_boxes.txt').write_text('')
    truth = {f'val_{i}.JPEG': WNIDS[i*3 % len(WNIDS)] for i in range(16)} # names do not sort by class
    for i,o in enumerate(truth): jpeg(root/'val'/'images'/o, 7*i)
    (root/'val'/'val_annotations.txt').write_text(''.join(f'{o}\t{w}\t0\t32\t44\t62\n' for o,w in truth.items()))
    (root/'wnids.txt').write_text('\n'.join(reversed(WNIDS))+'\n')
    (root/'words.txt').write_text('')
    jpeg(root/'test'/'images'/'test_0.JPEG')
    return truth

def test_tiny_imagenet(tmp_path):
    truth = tiny(tmp_path/'t')
    s = Source.open('tiny-imagenet', root=tmp_path/'t', valid=8)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=32, valid=8, test=16) and s.hierarchy.leaves == tuple(WNIDS)
    for split in ('train','valid'): assert names(s, split) == [o.split('/')[1] for o in files(s, split)]
    assert names(s, 'test') == [truth[Path(o).name] for o in files(s, 'test')]
    assert not set(files(s, 'train')) & set(files(s, 'valid')) and s.args['size'] == 8
    assert s.split('train').images.shape == (32,8,8,3) and s.levels['leaf'] == s.hierarchy.level(0)

def test_tiny_imagenet_shows_the_right_pixels(tmp_path):
    tiny(tmp_path/'t')
    s = Source.open('tiny-imagenet', root=tmp_path/'t')
    for split in s.splits.values():
        for i in range(len(split)): np.testing.assert_array_equal(split.images[i], np.asarray(Image.open(split.files[i]).convert('RGB')))

def test_tiny_imagenet_with_sorted_validation(tmp_path):
    "A common preparation moves the validation images into folders."
    root = tmp_path/'t'
    truth = tiny(root)
    before = Source.open('tiny-imagenet', root=root, size=None)
    for o,w in truth.items():
        (root/'val'/w).mkdir(exist_ok=True)
        (root/'val'/'images'/o).rename(root/'val'/w/o)
    (root/'val'/'images').rmdir()
    after = Source.open('tiny-imagenet', root=root, size=None)
    assert sorted(zip(map(os.path.basename, files(after, 'test')), names(after, 'test'))) == sorted(zip(map(os.path.basename, files(before, 'test')), names(before, 'test')))

@pytest.mark.parametrize('harm,says', [
    (lambda r: (r/'wnids.txt').unlink(), 'no wnids.txt'), (lambda r: shutil.rmtree(r/'train'), 'no train'), (lambda r: shutil.rmtree(r/'val'), 'no val'),
    (lambda r: (r/'val'/'val_annotations.txt').unlink(), 'no val/val_annotations.txt'), (lambda r: shutil.rmtree(r/'train'/WNIDS[2]), WNIDS[2]),
    (lambda r: (r/'train'/WNIDS[0]).rename(r/'train'/'goldfish'), "'train/goldfish.*wnid"), (lambda r: (r/'val'/'images'/'val_3.JPEG').unlink(), 'lists 16 images, but val holds 15')])
def test_tiny_imagenet_refuses(tmp_path, harm, says):
    tiny(tmp_path/'t')
    harm(tmp_path/'t')
    with pytest.raises(SourceError, match=f'(?s){says}.*expected below root.*found in'): Source.open('tiny-imagenet', root=tmp_path/'t', size=None)

def test_annotations_that_lack_an_image(tmp_path):
    tiny(tmp_path/'t')
    jpeg(tmp_path/'t'/'val'/'images'/'extra.JPEG')
    with pytest.raises(SourceError, match="no label in val/val_annotations.txt, such as 'extra'"): Source.open('tiny-imagenet', root=tmp_path/'t', size=None)
    (tmp_path/'t'/'val'/'val_annotations.txt').write_text('val_0.JPEG n01443537')
    with pytest.raises(SourceError, match='line 1: expected a file name, a tab and a wnid'): Source.open('tiny-imagenet', root=tmp_path/'t', size=None)

def test_the_folder_above_is_named(tmp_path):
    tiny(tmp_path/'tiny-imagenet-200')
    with pytest.raises(SourceError, match="did you mean root='.*tiny-imagenet-200'"): Source.open('tiny-imagenet', root=tmp_path)


# ImageNet

def imagenet(root, val='flat'):
    "Returns the wnid of each validation image; they are numbered from 1, as the real ones."
    for c,w in enumerate(WNIDS):
        for i in range(4): jpeg(root/'train'/w/f'{w}_{i}.JPEG', 20*c+i, (10+c,8))
    truth = {f'ILSVRC2012_val_{i:08}': WNIDS[i*5 % 8] for i in range(1, 13)}
    for i,(o,w) in enumerate(truth.items()): jpeg(root/'val'/(f'{o}.JPEG' if val == 'flat' else f'{w}/{o}.JPEG'), i)
    return truth

def devkit(folder, truth, meta='mat'):
    "The development kit: its numbers follow neither the alphabet nor the order of anything here."
    folder.mkdir(parents=True, exist_ok=True)
    number = {w: 1+(i*3+2) % 8 for i,w in enumerate(WNIDS)}
    (folder/'ILSVRC2012_validation_ground_truth.txt').write_text(''.join(f'{number[w]}\n' for w in truth.values()))
    if meta == 'text': (folder/'map_clsloc.txt').write_text(''.join(f'{w} {n} word\n' for w,n in number.items()))
    if meta == 'mat':
        from scipy.io import savemat
        rows = np.array([(n, w, 'word', 'gloss', 0) for w,n in number.items()], dtype=[('ILSVRC2012_ID','O'), ('WNID','O'), ('words','O'), ('gloss','O'), ('num_children','O')])
        savemat(folder/'meta.mat', dict(synsets=rows.reshape(-1, 1)))

def kaggle(file, truth):
    with open(file, 'w', newline='') as f: csv.writer(f).writerows([('ImageId','PredictionString'), *((o, f'{w} 1 2 3 4 {w} 5 6 7 8 ') for o,w in reversed(truth.items()))])

def check_val(s, truth): assert dict(zip([Path(o).stem for o in files(s, 'test')], names(s, 'test'))) == truth

@pytest.mark.parametrize('meta', ['mat','text'])
@pytest.mark.parametrize('where', ['.','ILSVRC2012_devkit_t12/data','devkit/data'])
def test_imagenet_with_the_devkit(tmp_path, meta, where):
    truth = imagenet(tmp_path/'i')
    devkit(tmp_path/'i'/where, truth, meta)
    s = Source.open('imagenet1k', root=tmp_path/'i', valid=4)
    check_val(s, truth)
    assert len(s.split('train')) == 28 and s.target == s.hierarchy.level(0) and not s.split('train').has_pixels
    assert Source.open('imagenet1k', root=tmp_path/'i', size=[6,9]).split('test').images.shape == (12,6,9,3)

def test_imagenet_from_kaggle_and_sorted(tmp_path):
    truth = imagenet(tmp_path/'k'/'ILSVRC'/'Data'/'CLS-LOC')
    kaggle(tmp_path/'k'/'LOC_val_solution.csv', truth)
    check_val(Source.open('imagenet1k', root=tmp_path/'k'), truth)
    check_val(Source.open('imagenet1k', root=tmp_path/'s') if imagenet(tmp_path/'s', 'sorted') else None, truth)

def test_imagenet_labels_elsewhere_or_nowhere(tmp_path):
    truth = imagenet(tmp_path/'i')
    with pytest.raises(SourceError, match='(?s)images in val have no labels.*expected.*ground_truth.*found'): Source.open('imagenet1k', root=tmp_path/'i')
    devkit(tmp_path/'kit', truth, meta=None)
    given = dict(root=tmp_path/'i', truth=str(tmp_path/'kit'/'ILSVRC2012_validation_ground_truth.txt'))
    with pytest.raises(SourceError, match='mean nothing without meta.mat'): Source.open('imagenet1k', **given)
    devkit(tmp_path/'kit', truth)
    check_val(Source.open('imagenet1k', **given), truth)
    (tmp_path/'kit'/'ILSVRC2012_validation_ground_truth.txt').write_text('1\n9\n')
    with pytest.raises(SourceError, match="'9' is not an ILSVRC2012_ID"): Source.open('imagenet1k', **given)
    (tmp_path/'kit'/'ILSVRC2012_validation_ground_truth.txt').write_text('1\n2\n')
    with pytest.raises(SourceError, match='10 of 12 images.*no label'): Source.open('imagenet1k', **given)
    with pytest.raises(SourceError, match='truth=.*must be a file called'): Source.open('imagenet1k', root=tmp_path/'i', truth='val.txt')
    (tmp_path/'i'/'LOC_val_solution.csv').write_text('file,label\n')
    with pytest.raises(SourceError, match='must begin with ImageId,PredictionString'): Source.open('imagenet1k', root=tmp_path/'i')

def test_a_subset_of_imagenet(tmp_path):
    truth = imagenet(tmp_path/'i')
    devkit(tmp_path/'i', truth)
    for w in WNIDS[:3]: shutil.rmtree(tmp_path/'i'/'train'/w)
    with pytest.warns(SourceWarning, match='show classes that are not in train'): s = Source.open('imagenet1k', root=tmp_path/'i')
    assert s.hierarchy.leaves == tuple(WNIDS[3:])
    check_val(s, {o:w for o,w in truth.items() if w in WNIDS[3:]})

def test_imagenet21k(tmp_path):
    imagenet(tmp_path/'i', 'sorted')
    s = Source.open('imagenet21k', root=tmp_path/'i'/'train', valid=4, test=4)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=24, valid=4, test=4)
    assert all(names(s, k) == [o.split('/')[0] for o in files(s, k)] for k in s.splits)
    both = Source.open('imagenet21k', root=tmp_path/'i', valid=4)
    assert len(both.split('test')) == 12 and len(both.split('train')) == 28
    for k in ('train','val'): (tmp_path/'i'/k).rename(tmp_path/'i'/f'imagenet21k_{k}')
    renamed = Source.open('imagenet21k', root=tmp_path/'i', valid=4)
    assert (renamed.split('test').leaf == both.split('test').leaf).all()
    (tmp_path/'tar').mkdir()
    (tmp_path/'tar'/'n01440764.tar').write_text('')
    with pytest.raises(SourceError, match='(?s)no images.*expected.*n01440764.tar'): Source.open('imagenet21k', root=tmp_path/'tar')
    with pytest.raises(SourceError, match='not named by a wnid'): Source.open('imagenet21k', root=tmp_path)


# iNaturalist and CIFAR-100

SPECIES = ['00000_Animalia_Arthropoda_Insecta_Hymenoptera_Apidae_Apis_mellifera', '00001_Animalia_Arthropoda_Insecta_Coleoptera_Lucanidae_Lucanus_cervus',
           '00002_Animalia_Chordata_Aves_Passeriformes_Corvidae_Corvus_corax', '00003_Plantae_Tracheophyta_Magnoliopsida_Fagales_Fagaceae_Quercus_robur']

def inat(root, train, valid):
    for top,n in ((train, 5), (valid, 2)):
        for k,o in enumerate(SPECIES):
            for i in range(n): jpeg(root/top/o/f'{k}{top}{i}.jpg', 9*k+i)

@pytest.mark.parametrize('train,valid', [('2021_train_mini','2021_valid'), ('train_mini','val')])
def test_inat(tmp_path, train, valid):
    inat(tmp_path/'n', train, valid)
    s = Source.open('inat21', root=tmp_path/'n', valid=4)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=16, valid=4, test=8) and s.target.vocab == ('Birds','Insects','Plants')
    for k in s.splits: assert names(s, k) == [' '.join(o.split('/')[1].split('_')[-2:]) for o in files(s, k)]
    assert list(s.levels)[0] == 'species' and 'kingdom' in s.levels
    with pytest.raises(SourceError, match='(?s)no 2021_train, and download=True was not given.*found in.*train_mini'): Source.open('inat21', root=tmp_path/'n', version='train')
    with pytest.raises(SourceError, match='did you mean root='): Source.open('inat21', root=tmp_path)
    (tmp_path/'n'/train/SPECIES[0]).rename(tmp_path/'n'/train/'bees')
    with pytest.raises(SourceError, match="(?s)'bees' is not named like.*expected"): Source.open('inat21', root=tmp_path/'n')

def test_inat_as_torchvision_sees_it(tmp_path):
    from torchvision.datasets import INaturalist
    inat(tmp_path/'n', '2021_train_mini', '2021_valid')
    theirs,ours = INaturalist(str(tmp_path/'n'), version='2021_valid'),Source.open('inat21', root=tmp_path/'n')
    number = {' '.join(o.split('_')[-2:]): i for i,o in enumerate(theirs.all_categories)}
    assert sorted((number[o], Path(f).name) for o,f in zip(names(ours, 'test'), files(ours, 'test'))) == sorted(theirs.index)

def test_download_only_if_asked(tmp_path, monkeypatch):
    asked = []
    def fetch(root, version):
        asked.append(version)
        for k,o in enumerate(SPECIES):
            for i in range(3): jpeg(Path(root)/version/o/f'{i}.jpg', 9*k+i)
    monkeypatch.setattr(module, '_download_inat', fetch)
    with pytest.raises(SourceError): Source.open('inat21', root=tmp_path/'n')
    assert not asked
    s = Source.open('inat21', root=tmp_path/'n', download=True)
    assert asked == ['2021_train_mini','2021_valid'] and 'download' not in s.args
    Source.open('inat21', root=tmp_path/'n', download=True)
    assert len(asked) == 2

@pytest.fixture
def cifar(tmp_path, monkeypatch):
    "A miniature CIFAR-100, whose checksums torchvision is told."
    import hashlib
    from torchvision.datasets import CIFAR100
    from granularity_nb.labels.taxonomy import cifar100
    classes = sorted(cifar100().hierarchy.leaves)
    folder,rng = tmp_path/'c'/'cifar-100-python',np.random.RandomState(0)
    folder.mkdir(parents=True)
    def write(name, o):
        (folder/name).write_bytes(pickle.dumps(o))
        return hashlib.md5((folder/name).read_bytes()).hexdigest()
    data = {k: dict(data=rng.randint(0, 256, (n*100, 3072)).astype(np.uint8), fine_labels=rng.permutation(np.arange(100).repeat(n)).tolist()) for k,n in dict(train=4, test=1).items()}
    for k,attr in dict(train='train_list', test='test_list').items(): monkeypatch.setattr(CIFAR100, attr, [[k, write(k, data[k])]])
    monkeypatch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=write('meta', dict(fine_label_names=classes))))
    return tmp_path/'c', data, classes

def test_cifar100(cifar):
    root,data,classes = cifar
    s = Source.open('cifar100', root=root, valid=.25)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=300, valid=100, test=100) and s.target.n_classes == 20
    assert names(s, 'test') == [classes[o] for o in data['test']['fine_labels']]
    np.testing.assert_array_equal(s.split('test').images[:], data['test']['data'].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    rows = s.split('valid').images.rows
    assert names(s, 'valid') == [classes[data['train']['fine_labels'][i]] for i in rows] and (s.counts('class', 'valid') == 1).all()
    assert s.split('test').digest and s.split('test').digest != s.split('valid').digest

def test_cifar100_wrong(cifar, tmp_path):
    root,_,_ = cifar
    with pytest.raises(SourceError, match="(?s)no complete CIFAR-100.*did you mean root='.*c'.*expected.*found"): Source.open('cifar100', root=root/'cifar-100-python')
    (root/'cifar-100-python'/'test').write_bytes(b'damaged')
    with pytest.raises(SourceError, match='no complete CIFAR-100'): Source.open('cifar100', root=root)


# Folders and tables

def tree(root, paths, n=4):
    for k,o in enumerate(paths):
        for i in range(n): jpeg(root/o/f'{i}.jpg', 9*k+i)

def test_folder_of_any_depth(tmp_path):
    tree(tmp_path/'f', ['animal/dog/poodle','animal/dog/beagle','animal/cat','plant/rose'], n=10)
    s = Source.open('folder', root=tmp_path/'f', valid=.1, test=.2)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=28, valid=4, test=8)
    assert all(names(s, k) == [o.split('/')[-2] for o in files(s, k)] for k in s.splits)
    assert s.target.vocab == ('animal','plant') and list(s.levels) == ['leaf','depth 1','depth 0']

def test_folder_with_splits(tmp_path):
    tree(tmp_path/'f', ['Training/a/x','Training/b','VAL/a/x','sketch/b'])
    s = Source.open('folder', root=tmp_path/'f', test=0)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=8, valid=4, sketch=4) and names(s, 'sketch') == ['b']*4
    drawn = Source.open('folder', root=tmp_path/'f', test=2)
    assert len(drawn.split('test')) == 2 and len(drawn.split('train')) == 6

def test_same_name_in_two_places_and_images_above_leaves(tmp_path):
    tree(tmp_path/'f', ['fruit/orange','colour/orange','fruit'])
    s = Source.open('folder', root=tmp_path/'f', valid=0, test=0)
    assert s.hierarchy.n_leaves == 3 and sorted(set(names(s, 'train'))) == ['colour/orange','fruit','fruit/orange']
    assert (s.counts('depth 0') == [4, 8]).all() and s.target.vocab == ('colour','fruit')

def test_folder_warns_of_classes_without_training_images(tmp_path):
    tree(tmp_path/'f', ['train/dog','train/cat','test/dog','test/wolf'])
    with pytest.warns(SourceWarning, match="1 classes have images in 'test' but none in 'train', such as 'wolf'"): Source.open('folder', root=tmp_path/'f', valid=0)

def test_folders_without_known_images_are_named(tmp_path, monkeypatch):
    tree(tmp_path/'f', ['a/x','a/y','b/z'], n=3)
    (tmp_path/'f'/'a'/'notes.txt').write_text('an aside beside folders of images is no class')
    (tmp_path/'f'/'b'/'z'/'0.jpg').rename(tmp_path/'f'/'b'/'z'/'0.JFIF')
    kw = dict(root=tmp_path/'f', valid=0, test=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert names(Source.open('folder', **kw), 'train').count('z') == 3, 'a .jfif is a JPEG'
    shutil.move(tmp_path/'f'/'b'/'z', tmp_path/'f'/'b'/'w')
    for o in (tmp_path/'f'/'b'/'w').iterdir(): o.rename(o.with_suffix('.heic'))
    with pytest.warns(SourceWarning, match=r'3 files not read \(3 \.heic\), such as b/w/\d\.heic and 1 folder without images, such as b; .*\.jpeg'): s = Source.open('folder', **kw)
    assert s.hierarchy.leaves == ('x','y')
    monkeypatch.setattr(source, '_many', 1) # a list that is kept says so again
    for _ in range(2):
        with pytest.warns(SourceWarning, match='heic'): Source.open('folder', **kw)

@pytest.mark.parametrize('make,says', [
    (lambda r: r.mkdir(), 'no images'), (lambda r: jpeg(r/'a.jpg'), 'directly'), (lambda r: jpeg(r/'train'/'a.jpg'), 'directly'),
    (lambda r: tree(r, ['.hidden/a']), 'no images')])
def test_folder_refuses(tmp_path, make, says):
    make(tmp_path/'f')
    with pytest.raises(SourceError, match=f'(?s){says}.*expected below root.*found in'): Source.open('folder', root=tmp_path/'f')

def test_images_that_cannot_be_used_are_left_out(tmp_path):
    tree(tmp_path/'f', ['a','b'], n=10)
    for k in (2, 7): (tmp_path/'f'/'a'/f'{k}.jpg').write_bytes(b'')
    with pytest.warns(SourceWarning, match='2 of 20 images.*a/2.jpg.*bad.csv') as said: s = Source.open('folder', root=tmp_path/'f', size=8, valid=.1, test=.2)
    assert len(said) == 1 and sum(map(len, s.splits.values())) == 18
    for split in s.splits.values():
        for i in range(len(split)): np.testing.assert_array_equal(split.images[i], np.asarray(Image.open(split.files[i]).convert('RGB')))
    with pytest.raises(SourceError, match='a/2.jpg'): Source.open('folder', root=tmp_path/'f', size=8, strict=True)
    with pytest.raises(SourceError, match='size'): Source.open('folder', root=tmp_path/'f', size='big')

@pytest.fixture
def opened(monkeypatch):
    "Paths of the image files that are read."
    from granularity_nb.data import store
    seen,read = [],store.read_regular
    monkeypatch.setattr(store, 'read_regular', lambda path, *a: seen.append(Path(path).name) or read(path, *a))
    return seen

def test_only_what_is_drawn_is_decoded(tmp_path, opened):
    tree(tmp_path/'f', ['a/x','a/y','b/z'], n=40)
    for i,o in enumerate(sorted((tmp_path/'f').rglob('*.jpg'))): o.rename(o.with_name(f'{i:03}.jpg'))
    few = lambda seed=0, n=9: Source.open('folder', steps=[['subsample', dict(n=n, seed=seed)], ['label_noise', dict(rate=.5)]], root=tmp_path/'f', size=8, valid=.1, test=.1, cache=tmp_path/'cache')
    s = few()
    assert [len(s.split(o)) for o in ('train','valid','test')] == [9, 12, 12] and len(opened) == len(set(opened)) == 33
    whole = Source.open('folder', root=tmp_path/'f', size=8, valid=.1, test=.1, cache=tmp_path/'elsewhere').subsample(9).label_noise(.5)
    for k,o in s.splits.items():
        t = whole.split(k)
        assert np.array_equal(o.images[:], t.images[:]) and np.array_equal(o.leaf, t.leaf) and o.digest == t.digest and np.array_equal(o.hashes, t.hashes)
    assert s.args == whole.args
    opened.clear()
    few()
    assert not opened, 'from the cache'
    few(seed=1)
    assert len(opened) == 9, 'another draw: what is not drawn is shared'
    opened.clear()
    listed = Source.open('folder', steps=[['subsample', dict(n=9)]], root=tmp_path/'f', cache=tmp_path/'cache')
    assert not opened and not listed.split('train').has_pixels and len(listed.split('train')) == 9

def test_bad_images_among_those_drawn(tmp_path, opened):
    tree(tmp_path/'f', ['a','b'], n=10)
    for o in (tmp_path/'f'/'a').iterdir(): o.write_bytes(b'')
    with pytest.warns(SourceWarning, match=r'8 of 16 images.*a/\d.jpg \(empty\)') as said: s = Source.open('folder', steps=[['subsample', dict(n=12)]], root=tmp_path/'f', size=8, valid=.1, test=.1)
    assert len(said) == 1 and len(s.split('train')) == 6 and {names(s, k)[0] for k in s.splits} == {'b'}
    for o in (tmp_path/'f'/'b').iterdir(): o.write_bytes(b'')
    with pytest.raises(SourceError, match="none of the .* images of 'train' can be used, such as .*empty"): Source.open('folder', root=tmp_path/'f', size=8, valid=.1, test=.1)

def test_a_maker_of_ours_gives_pixels_too(tmp_path):
    from granularity_nb.data.images import folder_source
    tree(tmp_path/'f', ['a','b'], n=10)
    assert folder_source(tmp_path/'f', size=8).split('train').images.shape[1:] == (8,8,3)

def test_the_first_image_of_tiny_imagenet_may_be_broken(tmp_path):
    root = tmp_path/'t'
    tiny(root)
    first = sorted(o for o in (root/'train').rglob('*.JPEG'))[0]
    first.write_bytes(first.read_bytes()[:200])
    with pytest.warns(SourceWarning, match=f'1 of .*{first.name}'): s = Source.open('tiny-imagenet', root=root)
    assert s.split('train').images.shape[1:] == (8,8,3)
    for o in root.rglob('*.JPEG'): o.write_bytes(b'')
    with pytest.raises(SourceError, match='none of the .* images can be used, such as .*JPEG: empty'): Source.open('tiny-imagenet', root=root)

def frame(root):
    tree(root, ['dog/poodle','dog/beagle','cat/tabby'], n=6)
    return pd.DataFrame([dict(path=f'{k}/{b}/{i}.jpg', label=f'{k}/{b}', kind=k, breed=b, split='train' if i < 4 else 'val' if i == 4 else 'test')
                         for k,b in (('dog','poodle'), ('dog','beagle'), ('cat','tabby')) for i in range(6)])

@pytest.mark.parametrize('ending', ['csv','parquet'])
@pytest.mark.parametrize('label', ['label', ['kind','breed']])
def test_table(tmp_path, ending, label):
    t = frame(tmp_path/'p')
    file = tmp_path/'p'/f't.{ending}'
    t.to_csv(file, index=False) if ending == 'csv' else t.to_parquet(file)
    s = Source.open('table', root=file, label=label)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=12, valid=3, test=3) and s.target.vocab == ('cat','dog')
    for k,o in s.splits.items(): assert list(zip(files(s, k), names(s, k))) == [(p, b) for p,b,v in zip(t.path, t.breed, t.split) if v == dict(valid='val').get(k, k)]
    assert set(s.levels) == ({'leaf','depth 0'} if label == 'label' else {'breed','kind'})
    elsewhere = shutil.move(file, tmp_path/f'u.{ending}')
    moved = Source.open('table', root=tmp_path/'p', file=str(elsewhere), label=label)
    assert [o.digest for o in moved.splits.values()] == [o.digest for o in s.splits.values()]

def test_columns_of_any_name_and_those_that_are_no_level(tmp_path):
    t = frame(tmp_path/'p').rename(columns=dict(kind='target', breed='image')).assign(direct=lambda t: t.image+'!', all='thing')
    t.to_csv(tmp_path/'p'/'t.csv', index=False)
    with pytest.warns(SourceWarning) as said: s = Source.open('table', root=tmp_path/'p'/'t.csv', label=['all','target','image','direct'])
    assert [*s.levels] == ['direct','target'] and s.target is s.level('target')
    assert [str(o.message).split("'")[1] for o in said] == ['all','image'] and 'no level' in str(said[0].message)

def test_table_without_splits_or_hierarchy(tmp_path):
    frame(tmp_path/'p').drop(columns='split').to_csv(tmp_path/'p'/'t.csv', index=False)
    s = Source.open('table', root=tmp_path/'p'/'t.csv', label='breed', valid=3, test=3)
    assert {k: len(o) for k,o in s.splits.items()} == dict(train=12, valid=3, test=3) and list(s.levels) == ['leaf']

@pytest.mark.parametrize('change,kw,says', [
    (lambda t: t.drop(columns='path'), {}, "no column 'path', only 'label'"), (lambda t: t, dict(split='fold'), "no column 'fold'"),
    (lambda t: t.assign(path=t.path.str.replace('5.jpg', '55.jpg')), {}, "3 of 18 files do not exist, such as 'dog/poodle/55.jpg' in row 5"),
    (lambda t: t.assign(label=t.label.where(t.index != 3, 'dog//x')), {}, 'row 3.*empty name'), (lambda t: t.assign(label=t.label.where(t.index != 3)), {}, "'label' is empty in row 3"),
    (lambda t: t.assign(split='test'), {}, "no row has 'train'"),
    (lambda t: t.assign(breed=t.breed.where(t.index != 3, 'toy/poodle')), dict(label=['kind','breed']), r"t\.csv: name 'toy/poodle' in column 'breed', row 3 .*'/'.*write another character"),
    (lambda t: t.assign(kind=t.kind.replace('cat', 'cat/lion')), dict(label=['kind','breed']), "name 'cat/lion' in column 'kind', row 12"),
    (lambda t: t.assign(label=t.label.str.replace('/', '>').where(t.index != 5, 'dog>a/b')), dict(sep='>'), "name 'a/b' in column 'label', row 5"),
    (lambda t: t, dict(sep=None), "name 'dog/poodle' in column 'label', row 0")])
def test_table_refuses(tmp_path, change, kw, says):
    change(frame(tmp_path/'p')).to_csv(tmp_path/'p'/'t.csv', index=False)
    with pytest.raises(SourceError, match=says): Source.open('table', root=tmp_path/'p'/'t.csv', **kw)

def test_table_reports_files_in_two_rows(tmp_path):
    t = frame(tmp_path/'p')
    pd.concat([t, t[t.path == 'cat/tabby/0.jpg'].assign(split='test')]).to_csv(tmp_path/'p'/'t.csv', index=False)
    with pytest.warns(SourceWarning, match="1 files are in several rows, such as 'cat/tabby/0.jpg' in 'train' and 'test'"): s = Source.open('table', root=tmp_path/'p'/'t.csv')
    assert len(s.leakage()) == 1

def test_table_that_is_none(tmp_path):
    (tmp_path/'t.csv').write_bytes(b'\xff\xfe\x00broken')
    with pytest.raises(SourceError, match='t.csv'): Source.open('table', root=tmp_path/'t.csv')
    with pytest.raises(SourceError, match='is no file'): Source.open('table', root=tmp_path)


# Shares, places, identity

@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 9), st.floats(0, .4), st.floats(0, .3))
def test_carving_is_a_stratified_partition(sizes, seed, valid, test):
    leaf = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    try: parts = carve(leaf, dict(valid=valid, test=test), seed)
    except SourceError: return
    assert sorted(np.concatenate([*parts.values()])) == list(range(len(leaf)))
    assert len(np.unique(leaf[parts['train']])) == len(sizes)
    for k,share in dict(valid=valid, test=test).items(): assert len(parts.get(k, ())) == round(share*len(leaf))
    again = carve(leaf, dict(valid=valid, test=test), seed)
    assert all((again[k] == o).all() for k,o in parts.items())

@pytest.mark.parametrize('share', [-.1, 1.5, 'half', True, 400, None])
def test_impossible_shares(share):
    with pytest.raises(SourceError, match='valid must be a share'): carve(np.zeros(100, int), dict(valid=share))

def test_place_is_not_identity(tmp_path, monkeypatch):
    tree(tmp_path/'data'/'folder', ['a','b'], n=10)
    shutil.copytree(tmp_path/'data'/'folder', tmp_path/'moved')
    here,there = (Source.open('folder', root=tmp_path/o) for o in ('data/folder','moved'))
    assert here.args == there.args and here.where != there.where and [o.digest for o in here.splits.values()] == [o.digest for o in there.splits.values()]
    again = Source.open(here.name, **here.args, **here.where)
    assert [o.digest for o in again.splits.values()] == [o.digest for o in here.splits.values()]
    monkeypatch.setenv('GRANULARITY_DATA', str(tmp_path/'data'))
    assert Source.open('folder').where == here.where
    jpeg(tmp_path/'moved'/'a'/'0.jpg', 77, size=(9,9))
    assert Source.open('folder', root=tmp_path/'moved').split('train').digest != here.split('train').digest or Source.open('folder', root=tmp_path/'moved').split('test').digest != here.split('test').digest

@pytest.mark.parametrize('name', ['tiny-imagenet','imagenet1k','imagenet21k','inat21','cifar100','folder','table'])
def test_no_root(name, tmp_path):
    with pytest.raises(SourceError, match=f'{name} needs root='): Source.open(name)
    with pytest.raises(SourceError, match='there is no'): Source.open(name, root=tmp_path/'nowhere')

def test_long_lists_are_kept(tmp_path, monkeypatch):
    from granularity_nb.data import source
    monkeypatch.setattr(source, '_many', 5)
    tree(tmp_path/'f', ['a','b'], n=5)
    first = Source.open('folder', root=tmp_path/'f')
    monkeypatch.setattr(source, '_walk', None) # whoever walks now, fails
    again = Source.open('folder', root=tmp_path/'f')
    assert [o.digest for o in again.splits.values()] == [o.digest for o in first.splits.values()]
    monkeypatch.undo()
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'cache'))
    jpeg(tmp_path/'f'/'a'/'new.jpg')
    assert sum(map(len, Source.open('folder', root=tmp_path/'f').splits.values())) == 11

def test_from_datasets():
    class Fake:
        classes = ['tabby','poodle']
        def __len__(self): return 6
        def __getitem__(self, i): return Image.new('RGB', (4,4), (i, 0, 0)), i % 2
    h = Hierarchy.from_paths({'poodle': ['dog'], 'tabby': ['cat']})
    s = from_datasets('own', dict(train=Fake(), test=Fake()), h)
    assert names(s, 'train') == ['tabby','poodle']*3 and (s.split('test').images[:,0,0,0] == range(6)).all()
    dag = Hierarchy.from_edges([('poodle','dog'), ('poodle','toy'), ('tabby','cat'), ('dog','animal'), ('cat','animal')])
    assert not any(m.multi for m in from_datasets('own', dict(train=Fake()), dag).levels.values())
    with pytest.raises(SourceError, match='has no classes'): from_datasets('own', dict(train=[(0, 0)]), h)
    with pytest.raises(HierarchyError, match='unknown leaf'): from_datasets('own', dict(train=Fake()), h, classes=['cat','poodle'])

def test_from_datasets_refuses_at_the_door():
    class Fake:
        classes = ['tabby','poodle']
        def __len__(self): return 4
        def __getitem__(self, i): raise AssertionError('nothing is read')
    h = Hierarchy.from_paths({'poodle': ['dog'], 'beagle': ['dog'], 'tabby': ['cat']})
    for args,kw,says in [((Fake(), h), {}, 'not as a Fake'), (([Fake()], h), {}, 'not as a list'), ((dict(Train=Fake()), h), {}, "'Train'; did you mean 'train'"), ((dict(train=Fake(), val=Fake()), h), {}, "'val'; did you mean 'valid'"),
        ((dict(a=Fake()), h), {}, "no split 'train', only 'a'"), ((dict(train=Fake()), {'poodle': ['dog']}), {}, 'hierarchy must be a Hierarchy'), ((dict(train=Fake()), h), dict(size=32), "no argument 'size'.*Resize"),
        ((dict(train=Fake()), h), dict(target='kind'), "no level of 'own' 'kind'"), ((dict(train=Fake()), h), dict(target={'poodle': 'x'}), 'no class'), ((dict(train=Fake()), h), dict(levels=[h.level(1)]), 'levels are given with their names')]:
        with pytest.raises(SourceError, match=f'own: .*{says}' if 'kind\'' not in says else says): from_datasets('own', *args, **kw)
    class Painted(Fake):
        def __getitem__(self, i): return Image.new('RGB', (4,4)), i % 2
    assert from_datasets('own', dict(train=Painted()), h, target='depth 0').target.vocab == ('cat','dog')
    assert from_datasets('own', dict(train=Painted()), h, target=dict(poodle='x', beagle='y', tabby='x')).level('target').vocab == ('x','y')


def test_lists_and_stores_share_one_cache_folder(monkeypatch, tmp_path):
    from granularity_nb.data.images import _cache
    from granularity_nb.files import cache_folder
    monkeypatch.delenv('GRANULARITY_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'xdg'))
    assert _cache(None) == str(cache_folder()) == str(tmp_path/'xdg'/'granularity_nb')
    monkeypatch.setenv('GRANULARITY_CACHE', str(tmp_path/'own'))
    assert _cache(None) == str(cache_folder()) == str(tmp_path/'own')
    assert _cache(tmp_path/'given') == str(tmp_path/'given')


animals = Hierarchy.from_paths({'poodle': ['dog'], 'beagle': ['dog'], 'tabby': ['cat'], 'persian': ['cat']})
_grey = dict(beagle=10, persian=20, poodle=30, tabby=40) # a picture's value tells its class

def _folders(root, classes):
    "torchvision's `ImageFolder`: two pictures of each class."
    torchvision = pytest.importorskip('torchvision')
    for o in classes:
        for i in range(2):
            (root/o).mkdir(parents=True, exist_ok=True)
            Image.new('L', (4,4), _grey[o]).save(root/o/f'{i}.png')
    return torchvision.datasets.ImageFolder

def _as_seen(split):
    "Names of the leaves, and of the classes that the pictures show."
    shown = {v:o for o,v in _grey.items()}
    return [animals.leaves[o] for o in split.leaf], [shown[int(o)] for o in np.asarray(split.images)[:,0,0,0]]

class Pairs:
    "A dataset that is no more than pairs, with what else is said of it."
    def __init__(self, pairs, **said): self.pairs,self.said = pairs,said; self.__dict__ |= said
    def __len__(self): return len(self.pairs)
    def __getitem__(self, i): return Image.new('RGB', (4,4), (_grey[self.pairs[i][0]],)*3), self.pairs[i][1]

def test_each_dataset_numbers_its_own_classes(tmp_path):
    make = _folders(tmp_path/'train', [*_grey])
    _folders(tmp_path/'valid', ['persian','tabby']) # 0 and 1 there, 1 and 3 in train
    datasets = {k: make(tmp_path/k) for k in ('train','valid')}
    datasets['test'] = Pairs([('tabby', 0), ('beagle', 1)], classes=['tabby','beagle'])
    source = from_datasets('own', datasets, animals)
    for k in datasets:
        named,seen = _as_seen(source.split(k))
        assert named == seen, k
    assert {k: len(source.split(k)) for k in datasets} == dict(train=8, valid=4, test=2)

@pytest.mark.parametrize('how', ['target_transform', 'changed targets', 'changed samples', 'subset', 'concatenated', 'wrapped', 'subclass', 'shuffled subset of concatenated'])
def test_labels_are_what_the_items_say(tmp_path, how):
    torch = pytest.importorskip('torch')
    make = _folders(tmp_path/'a', [*_grey])
    _folders(tmp_path/'b', ['persian','tabby'])
    a,b = make(tmp_path/'a'),make(tmp_path/'b')
    turned = lambda y: 3-y
    class Wrapped:
        classes,targets = a.classes,a.targets
        def __len__(self): return len(a)
        def __getitem__(self, i): return a[i][0], turned(a[i][1])
    class Sub(make):
        def __getitem__(self, i):
            x,y = super().__getitem__(i)
            return x, turned(y)
    if how == 'target_transform': d,want = make(tmp_path/'a', target_transform=turned),['tabby','tabby','poodle','poodle','persian','persian','beagle','beagle']
    if how == 'changed targets': a.targets,d,want = [0]*8,a,None
    if how == 'changed samples': d,want = a,['tabby']*8; a.samples = [(p, 3) for p,_ in a.samples]
    if how == 'subset': d,want = torch.utils.data.Subset(a, [7, 0, 2]),None
    if how == 'concatenated': d,want = torch.utils.data.ConcatDataset([a, b, a]),None
    if how == 'shuffled subset of concatenated': d,want = torch.utils.data.Subset(torch.utils.data.ConcatDataset([a, torch.utils.data.Subset(b, [3, 1])]), [9, 0, 8, 5]),None
    if how == 'wrapped': d,want = Wrapped(),['tabby','tabby','poodle','poodle','persian','persian','beagle','beagle']
    if how == 'subclass': d,want = Sub(tmp_path/'a'),['tabby','tabby','poodle','poodle','persian','persian','beagle','beagle']
    named,seen = _as_seen(from_datasets('own', dict(train=d), animals).split('train'))
    assert named == (seen if want is None else want) and len(named) == len(d)

@pytest.mark.parametrize('kind', ['names', 'numpy names', 'numpy', 'tensors', 'arrays of one', 'dict', 'class_to_idx'])
def test_labels_of_many_kinds(kind):
    torch = pytest.importorskip('torch')
    names,order = ['tabby','beagle','tabby','poodle'],['tabby','beagle','poodle','persian']
    number,said = [order.index(o) for o in names],dict(classes=order)
    label = {'names': names, 'numpy names': np.array(names), 'numpy': np.array(number, np.uint8), 'tensors': torch.tensor(number), 'arrays of one': [np.array([o]) for o in number], 'dict': number}
    if kind == 'names' or kind == 'numpy names': said = {}
    if kind == 'class_to_idx': label,said = {kind: [10*o for o in number]},dict(classes=order, class_to_idx={o: 10*i for i,o in enumerate(order)})
    d = Pairs([*zip(names, label[kind])], **said)
    if kind == 'dict':
        class HuggingFace:
            features = {'label': type('ClassLabel', (), dict(names=order))}
            def __len__(self): return len(d)
            def __getitem__(self, i): return dict(zip(('image','label'), d[i]))
        named,seen = _as_seen(from_datasets('own', dict(train=HuggingFace()), animals).split('train'))
    else: named,seen = _as_seen(from_datasets('own', dict(train=d), animals).split('train'))
    assert named == seen == names

def test_what_a_class_number_means_must_be_plain(tmp_path):
    make = _folders(tmp_path/'train', [*_grey])
    _folders(tmp_path/'valid', ['persian','tabby'])
    train,valid = make(tmp_path/'train'),make(tmp_path/'valid', target_transform=lambda y: [1, 3][y])
    with pytest.raises(SourceError, match=r"own, 'valid': its numbers come out of a target_transform.*classes=\{'valid'"): from_datasets('own', dict(train=train, valid=valid), animals)
    named,seen = _as_seen(from_datasets('own', dict(train=train, valid=valid), animals, classes=dict(valid=train.classes)).split('valid'))
    assert named == seen
    with pytest.raises(SourceError, match="own, 'valid': class 'persian' has the number 0 in the dataset, but 1 in the classes given"):
        from_datasets('own', dict(train=train, valid=make(tmp_path/'valid')), animals, classes=train.classes)
    for label,message in [(7, 'class number 7, but only class numbers 0 … 3 have names'), (-1, 'class number -1'), (.5, 'class numbers or class names'), (None, 'label of image 0'), ([0, 1], 'one an image'), ('lion', 'lion')]:
        with pytest.raises((SourceError, HierarchyError), match=message): from_datasets('own', dict(train=Pairs([('tabby', label)], classes=train.classes)), animals)
    synonyms = Pairs([('tabby', 0)], classes=[('tabby','tabby cat')]) # as torchvision's ImageNet has them
    with pytest.raises(SourceError, match=r"own, 'train': class number 0 of the dataset is called \('tabby', 'tabby cat'\).*classes="): from_datasets('own', dict(train=synonyms), animals)
    assert _as_seen(from_datasets('own', dict(train=synonyms), animals, classes=['tabby']).split('train'))[0] == ['tabby']
    with pytest.raises(SourceError, match='the dataset is empty'): from_datasets('own', dict(train=Pairs([])), animals)
    with pytest.raises(SourceError, match='no map-style dataset'): from_datasets('own', dict(train=iter([])), animals)
    with pytest.raises(SourceError, match="a dict of 'img', 'fine_label'"): from_datasets('own', dict(train=[dict(img=1, fine_label=0)]), animals)
    unnamed = Pairs([('tabby', 0)])
    assert _as_seen(from_datasets('own', dict(train=Pairs([('beagle', 1), ('tabby', 0)], classes=['tabby','beagle']), test=unnamed), animals).split('test'))[0] == ['tabby']

def test_arrays_with_channels_first_are_read_as_their_items_are():
    x = np.random.RandomState(0).randint(0, 256, (5,3,4,4), dtype=np.uint8)
    class SVHN: # keeps (n, 3, height, width), as torchvision's does
        data,labels,classes = x,np.zeros(5, int),['tabby','poodle']
        def __len__(self): return 5
        def __getitem__(self, i): return Image.fromarray(np.transpose(x[i], (1, 2, 0))), i % 2
    s = from_datasets('own', dict(train=SVHN()), animals).split('train')
    assert np.array_equal(s.images, x.transpose(0, 2, 3, 1)) and [animals.leaves[o] for o in s.leaf] == ['tabby','poodle','tabby','poodle','tabby']

def test_known_folders_are_not_read_for_their_labels(tmp_path, monkeypatch):
    make = _folders(tmp_path, [*_grey])
    d = make(tmp_path, loader=lambda path: (_ for _ in ()).throw(AssertionError('read')))
    assert len(from_datasets('own', dict(train=d), animals).split('train')) == 8


def test_a_share_that_is_not_even_one_image_or_not_what_groups_allow_is_said():
    with pytest.warns(SourceWarning, match="valid=0.05 of 8 images is not even one, so there is no 'valid'"): assert set(carve(np.zeros(8, int), dict(valid=.05, test=.25))) == {'train','test'}
    with pytest.warns(SourceWarning, match='valid: 8 images instead of 5, since groups stay whole'): carve(np.zeros(40, int), dict(valid=5), together=np.arange(40)//8)

def test_table_with_two_labels_for_one_file(tmp_path):
    t = frame(tmp_path/'p')
    n = len(t)
    other = next(o for o in t.label if o.split('/')[0] != t.label[0].split('/')[0])
    pd.concat([t, t[:1].assign(label=other, path='./'+t.path[0])]).to_csv(tmp_path/'p'/'t.csv', index=False)
    leaf = lambda o: o.rpartition('/')[2]
    with pytest.raises(SourceError, match=f"1 files have different labels in several rows, such as '{t.path[0]}', '{leaf(t.label[0])}' in row 0 and '{leaf(other)}' in row {n} .*repeats=True"): Source.open('table', root=tmp_path/'p'/'t.csv')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = Source.open('table', root=tmp_path/'p'/'t.csv', repeats=True)
    assert sum(map(len, s.splits.values())) == n+1 and s.args['repeats'] is True
    t.to_csv(tmp_path/'p'/'t.csv', index=False)
    assert 'repeats' not in Source.open('table', root=tmp_path/'p'/'t.csv').args, 'what is not asked for is no part of the identity'

def test_validation_lists_with_two_labels_for_one_image(tmp_path):
    from granularity_nb.data.images import _annotations, _kaggle_truth
    (tmp_path/'val_annotations.txt').write_text('a.JPEG\tn01443537\nb.JPEG\tn01443537\na.JPEG\tn01629819\n')
    with pytest.raises(SourceError, match="'a' has the label n01443537 and also n01629819"): _annotations(tmp_path/'val_annotations.txt')
    (tmp_path/'LOC_val_solution.csv').write_text('ImageId,PredictionString\na,n01443537 1 2 3 4\na,n01629819 1 2 3 4\n')
    with pytest.raises(SourceError, match="'a' has the label n01443537 and also n01629819"): _kaggle_truth(tmp_path/'LOC_val_solution.csv')
