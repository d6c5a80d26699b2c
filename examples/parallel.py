"""Many containers at once from one program: each counts the primes in its share of the numbers.

sudo .venv/bin/python examples/parallel.py [IMAGE]
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import poc

SHARE = 500
COUNT = """
n=$1; found=0
while [ $n -lt $2 ]; do
  d=2; prime=1
  while [ $((d * d)) -le $n ]; do [ $((n % d)) -eq 0 ] && prime=0 && break; d=$((d + 1)); done
  found=$((found + prime)); n=$((n + 1))
done
echo $found
"""


def main() -> None:
    image = sys.argv[1] if len(sys.argv) > 1 else "ubuntu"

    def count(start: int) -> int:
        command = ["sh", "-c", COUNT, "count", str(start), str(start + SHARE)]
        return int(poc.run(image, command, network="none", mem_limit="64m", check=True).output)

    with ThreadPoolExecutor(8) as pool:
        found = sum(pool.map(count, range(2, 4002, SHARE)))
    print(f"{found} primes below 4002")


if __name__ == "__main__":
    main()
