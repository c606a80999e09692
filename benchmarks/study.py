"""What the main job costs: wall time, processor time and peak memory of `granularity study --preset quick`, and the time of `--help`.

Run on a quiet machine:  python benchmarks/study.py [--preset quick]
Memory is the proportional set size summed over the whole process tree (pages that processes share are counted once), where the system tells it."""
import argparse, subprocess, sys, tempfile, time
import psutil


def _pss(p):
    try:
        m = p.memory_full_info()
        return getattr(m, 'pss', m.uss)
    except psutil.Error: return 0


def _cpu(p):
    try: t = p.cpu_times(); return t.user+t.system
    except psutil.Error: return 0


def watch(command):
    "Run `command`; → (seconds, processor seconds, peak bytes, most processes at once)."
    start,peak,cpu,most = time.time(),0,{},0
    with tempfile.TemporaryFile('w+') as out:
        p = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while p.poll() is None:
            try: tree = [p, *p.children(recursive=True)]
            except psutil.Error: break
            peak,most = max(peak, sum(_pss(o) for o in tree)),max(most, len(tree))
            cpu.update({o.pid: max(cpu.get(o.pid, 0), _cpu(o)) for o in tree})
            time.sleep(.25)
        code = p.wait()
        out.seek(0)
        if code: sys.exit(out.read())
        said = out.read()
    return time.time()-start, sum(cpu.values()), peak, most, said


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('--preset', default='quick')
    preset = a.parse_args().preset
    module = [sys.executable, '-m', 'granularity_nb.cli']
    helps = sorted(watch([*module, '--help'])[0] for _ in range(5))
    print(f"granularity --help: median {helps[2]:.2f} s of 5 (bar: 1 s), ratio {helps[2]:.2f}")
    with tempfile.TemporaryDirectory() as d:
        wall,cpu,peak,most,said = watch([*module, 'study', '--preset', preset, '--out', f'{d}/study'])
    print(f"granularity study --preset {preset} on {psutil.cpu_count()} cores, {most} processes")
    for what,x,bar,unit in (('wall time', wall/60, 4, 'min'), ('peak memory', peak/1e9, 2, 'GB')): print(f"  {what:12} {x:6.2f} {unit} (bar: {bar} {unit}), ratio {x/bar:.2f}")
    print(f"  processor    {cpu/60:6.2f} min")
    print(said[said.find('Target error'):])


if __name__ == '__main__': main()
