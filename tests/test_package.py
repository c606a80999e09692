"The package as a whole: who imports whom, what importing costs, what is public. Works on the installed package."
import ast, inspect, importlib, json, re, subprocess, sys
from pathlib import Path
import pytest
import granularity_nb

ROOT = Path(granularity_nb.__file__).parent
FILES = {'.'.join(('granularity_nb', *o.relative_to(ROOT).with_suffix('').parts)): o for o in sorted(ROOT.rglob('*.py'))
         if o.name not in ('__init__.py', '_modidx.py')}
# each may import those before it; theory stands apart, on the ground floor alone
FLOOR = 'files', 'provenance', 'text'
ORDER = *FLOOR, 'labels', 'data', 'training', 'study', 'cli'
MAY = {o: set(ORDER[:i+1]) for i,o in enumerate(ORDER)} | {'theory': {*FLOOR, 'theory'}}
MAY['study'].add('theory'); MAY['cli'].add('theory')

def section(module): return module.split('.')[1]

def imports(source, module):
    "Absolute names of all modules that `source` of `module` imports anywhere, also inside functions."
    found = set()
    for o in ast.walk(ast.parse(source)):
        if isinstance(o, ast.Import): found |= {a.name for a in o.names}
        elif isinstance(o, ast.ImportFrom):
            base = o.module or ''
            if o.level: base = '.'.join(module.split('.')[:-o.level] + ([base] if base else []))
            found |= {f'{base}.{a.name}' if f'{base}.{a.name}' in FILES else base for a in o.names}
    return found

IMPORTS = {name: imports(path.read_text(encoding='utf-8'), name) for name,path in FILES.items()}

def public(path):
    "The names in a module's `__all__`, read without running it."
    for o in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(o, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '__all__' for t in o.targets): return ast.literal_eval(o.value)
    return []

def python(code, **kw):
    "What `code` prints as JSON in a fresh interpreter outside the repository, with the package importable as it is here."
    code = f'import sys, json; sys.path.insert(0, {str(ROOT.parent)!r})\n{code}'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT.parent.parent, **kw)
    assert res.returncode == 0, res.stderr
    return json.loads(res.stdout.splitlines()[-1])


def test_something_to_test(): assert len(FILES) >= 2 and sum(len(public(o)) for o in FILES.values()) >= 2

def test_imports_reads_every_form():
    got = imports('import a.b\nfrom .files import x\nfrom .. import files\ndef f():\n    from granularity_nb import files', 'granularity_nb.data.source')
    assert got == {'a.b', 'granularity_nb.data.files', 'granularity_nb.files'}

@pytest.mark.parametrize('module', FILES)
def test_arrows(module):
    "No module imports from a section that lies after its own."
    assert section(module) in MAY, f'{module}: a new section; say in MAY whom it may import'
    wrong = {o for o in IMPORTS[module] if o.startswith('granularity_nb.') and section(o) not in MAY[section(module)]}
    assert not wrong

def test_no_cycles():
    "Within sections, too, imports form no circle."
    left = {k: {o for o in v if o in FILES and o != k} for k,v in IMPORTS.items()}
    while left:
        free = {k for k,v in left.items() if not v & left.keys()}
        assert free, f'import each other: {sorted(left)}'
        left = {k: v for k,v in left.items() if k not in free}

def private(tree):
    "Underscore names that a module uses: those it imports from others of the package, and those of attributes that it does not make itself."
    inside = lambda o: o.level or (o.module or '').startswith('granularity_nb')
    hidden = lambda o: o.startswith('_') and not o.startswith('__') and o != '_'
    took = {((o.module or '').split('.')[-1], a.name) for o in ast.walk(tree) if isinstance(o, ast.ImportFrom) and inside(o) for a in o.names if hidden(a.name)}
    used = {o.attr for o in ast.walk(tree) if isinstance(o, ast.Attribute) and isinstance(o.ctx, ast.Load) and hidden(o.attr)}
    return took, used - made(tree)

def made(tree):
    "Names that a module defines, as functions, classes, methods, variables or attributes."
    nodes = [*ast.walk(tree)]
    return ({o.name for o in nodes if isinstance(o, (ast.FunctionDef, ast.ClassDef))} | {o.id for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)}
            | {o.attr for o in nodes if isinstance(o, ast.Attribute) and isinstance(o.ctx, ast.Store)} | {o.arg for o in nodes if isinstance(o, ast.keyword)})

def private_uses():
    "Underscore names of other modules of the package, module by module."
    trees = {o: ast.parse(path.read_text(encoding='utf-8')) for o,path in FILES.items()}
    makes,uses = {o: made(t) for o,t in trees.items()},{}
    for module,tree in trees.items():
        took,attrs = private(tree)
        found = {o for k,o in took if k != module.split('.')[-1]}
        found |= {o for o in attrs if any(o in makes[k] for k in FILES if k != module)}
        if found: uses[module.removeprefix('granularity_nb.')] = found
    return uses

def test_private_finds_both_kinds():
    took,used = private(ast.parse('from .a import _x, y\nfrom .a import _z\nfrom numpy import _core\ndef _f(o): return o._mine+o._theirs+o.__len__()\nself._mine = 3'))
    assert took == {('a','_x'), ('a','_z')} and used == {'_theirs'}

# what is left of earlier days; add nothing here: make a name public, or move what needs it
PRIVATE = {
    'labels.controls': {'_names','_whole'},
    'labels.hierarchy': {'_Immutable','_check_format','_csr','_digest','_expand','_frozen','_idx','_ints','_leaf_codes','_lookup','_make','_names','_set','_similar','_strings','_unique_pairs'},
    'labels.metrics': {'_ancestry','_expand','_labels','_leaf','_leaf_codes','_roots'},
    'labels.wordnet': {'_reached'},
    'study.plan': {'_shares','_stuck'},
    'theory.claims': {'_gather','_train'},
    'theory.training': {'_collect','_dlogits','_gradient','_hidden','_outputs'},
}

def test_no_module_uses_anothers_underscore_names():
    new = {k: more for k,o in private_uses().items() if (more := o-PRIVATE.get(k, set()))}
    assert not new

@pytest.mark.parametrize('module', FILES)
def test_names_are_imported_from_where_they_live(module):
    "Not by way of a module that itself imports them; `labels.hierarchy` alone passes on the names of `labels.label_map`."
    for o in ast.walk(ast.parse(FILES[module].read_text(encoding='utf-8'))):
        if not isinstance(o, ast.ImportFrom): continue
        base = '.'.join([*module.split('.')[:-o.level], *filter(None, [o.module])]) if o.level else o.module
        if base not in FILES or base == 'granularity_nb.labels.hierarchy': continue
        assert not {a.name for a in o.names}-made(ast.parse(FILES[base].read_text(encoding='utf-8'))), f'from {base}'

@pytest.mark.parametrize('module', FILES)
def test_names_no_development_tool(module):
    assert not {o.split('.')[0] for o in IMPORTS[module]} & {'nbdev', 'execnb', 'pytest', 'hypothesis', 'setuptools', 'pkg_resources'}

def test_never_loads_nbdev():
    "Nor does anything that the package imports load it, whatever is installed."
    code = f'''import importlib
for o in {list(FILES)!r}: importlib.import_module(o)
print(json.dumps([len([o for o in sys.modules if o.startswith("granularity_nb.")]), sorted({{"nbdev", "execnb"}} & set(sys.modules))]))'''
    loaded,tools = python(code)
    assert loaded >= len(FILES) and tools == []

@pytest.mark.parametrize('module', [o for o in FILES if section(o) in (*FLOOR, 'labels')])
def test_light_import(module):
    "Beyond the standard library, `labels` (and what lies below it) loads numpy and nothing else, in less than half a second."
    code = f'''import numpy, time
before,start = set(sys.modules),time.process_time()
import {module}
took = time.process_time() - start
new = {{o.split('.')[0] for o in set(sys.modules) - before}}
print(json.dumps([took, sorted(new - set(sys.stdlib_module_names) - {{"granularity_nb", "numpy"}})]))'''
    took,foreign = python(code)
    assert foreign == [] and took < .5

HELP = """from importlib.metadata import entry_points
sys.argv = ["granularity", "--help"]
try: {ep.name: ep for ep in entry_points(group="console_scripts")}["granularity"].load()()
except SystemExit as e: assert not e.code"""

@pytest.mark.parametrize('code', ['import granularity_nb', 'import granularity_nb.labels', 'import granularity_nb.cli', HELP])
def test_light_command_line(code):
    "Neither the package, nor its labels, nor `granularity --help` loads a heavy library."
    heavy = python(f'{code}\nprint(json.dumps(sorted({{"torch", "fastai", "pandas", "sklearn", "matplotlib", "timm"}} & set(sys.modules))))')
    assert heavy == []

def test_no_name_twice():
    "No two modules export the same name: with star-imports the last would win silently."
    where = {}
    for module,path in FILES.items():
        for o in public(path): where.setdefault(o, []).append(module)
    assert not {k: v for k,v in where.items() if len(v) > 1}

# methods that a framework calls and documents itself: fastai's transforms, loaders and callbacks, PyTorch's modules, our `Objective`
HOOK = re.compile(r'encodes|decodes|setups|new|create_batches|show_batch|forward|activation|per_image|(before|after)_\w+')

def undocumented(obj, name):
    "Names of `obj` and, if it is a class, of its own public methods that have no docstring."
    if not (inspect.isclass(obj) or inspect.isroutine(obj)): return []
    missing = [] if inspect.getdoc(obj) else [name]
    if inspect.isclass(obj):
        for k in vars(obj):
            if HOOK.fullmatch(k): continue
            v = getattr(obj, k)
            if not k.startswith('_') and (inspect.isroutine(v) or isinstance(v, property)) and not inspect.getdoc(v): missing.append(f'{name}.{k}')
    return sorted(missing)

def test_undocumented_finds_gaps():
    class A:
        "Documented."
        def f(self): pass
        def g(self): "Documented."
        @property
        def p(self): return 1
        @classmethod
        def c(cls): pass
        def _private(self): pass
        def after_batch(self): pass
    assert undocumented(A, 'A') == ['A.c', 'A.f', 'A.p'] and undocumented(3, 'x') == [] and undocumented(lambda: 1, 'f') == ['f']

@pytest.mark.parametrize('module', FILES)
def test_docstrings(module):
    "Every public name, and every public method of a public class, says in its docstring what it is for."
    loaded = importlib.import_module(module)
    missing = [o for name in public(FILES[module]) for o in undocumented(getattr(loaded, name), name)]
    assert not missing, f"no docstring: {', '.join(missing)}"
