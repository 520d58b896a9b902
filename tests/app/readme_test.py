"""Every C++ block of README.md stands, line by line, in a program below examples/."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
programs = {
    path: [line.strip() for line in path.read_text().splitlines() if line.strip()]
    for suffix in ("*.cc", "*.h")
    for path in (root / "examples").rglob(suffix)
}
blocks = re.findall(r"```cpp\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
missing = 0
for block in blocks:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    found = any(
        program[at : at + len(lines)] == lines
        for program in programs.values()
        for at in range(len(program) - len(lines) + 1)
    )
    if not found:
        missing += 1
        print("not in any example:\n" + block)
print(f"{len(blocks)} blocks, {missing} missing")
sys.exit(missing != 0 or len(blocks) < 5)
