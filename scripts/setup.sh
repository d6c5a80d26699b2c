# shellcheck shell=sh
# Makes a machine ready for poc: packages, an interpreter, a virtual environment. Sourced by scripts/poc, scripts/test
# and scripts/install, which set $here to this directory. Speaks on stderr, a line for a step: stdout is the command's.

program=${0##*/}
checkout=$(cd "${here:?}/.." && pwd -P)
venv=$checkout/.venv
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # `su` leaves these out
umask 022
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 PIP_ROOT_USER_ACTION=ignore

# Debian's package, Fedora's (- if only a system with apt can use it), and a command or a file that shows it is there.
# The packages of Python itself come on top.
needs_of_poc='
gcc             gcc             gcc
libc6-dev       glibc-devel     /usr/include/stdio.h
libcap-dev      libcap-devel    /usr/include/sys/capability.h
libseccomp2     libseccomp      /usr/lib*/libseccomp.so.2 /usr/lib/*/libseccomp.so.2
e2fsprogs       e2fsprogs       mkfs.ext4
tar             tar             tar
mmdebstrap      -               mmdebstrap
ca-certificates ca-certificates /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt
'

say() {
    printf '%s: %s\n' "$program" "$*" >&2
}

die() {
    say "$*"
    exit 125
}

# quietly WHAT COMMAND…: say what is done, and show what the command printed only if it fails.
quietly() {
    say "$1"
    shift
    log=$(mktemp)
    exec 8<>"$log"
    rm "$log" # still open, and gone even if this is killed
    code=0
    "$@" </dev/null >&8 2>&1 || code=$?
    [ "$code" = 0 ] || tail -n 40 /proc/self/fd/8 >&2
    return "$code"
}

# is_there COMMAND-or-FILE…: any of them.
is_there() {
    for thing; do
        case $thing in
        /*) [ -e "$thing" ] ;;
        *) command -v "$thing" >/dev/null ;;
        esac && return
    done
    return 1
}

# missing TABLE: the rows of what is not there.
missing() {
    printf '%s\n' "$1" | while read -r debian fedora proofs; do
        case $fedora in
        '') continue ;;
        -) is_there apt-get || continue ;;
        esac
        # shellcheck disable=SC2086 # the proofs are patterns
        is_there $proofs || echo "$debian $fedora"
    done
}

# The system's own interpreter, 3.11 or newer and able to make virtual environments: a version manager's shim would
# cost each start 35 ms. The name has the version in it, so that an upgrade of the system does not exchange it unseen.
find_python() {
    for python in /usr/bin/python3 /usr/bin/python3.1[1-9]; do
        if "$python" -I -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(readlink -f "$python")
            return
        fi
    done
    return 1
}

missing_for_python() {
    if ! find_python; then
        printf '%s\n' 'python3 python3' 'python3-venv python3' 'python3-dev python3-devel'
    elif [ ! -e "/usr/include/${python##*/}/Python.h" ]; then
        echo "${python##*/}-dev python3-devel"
    fi
}

# provide TABLE: install what is missing of it, and a Python.
provide() {
    rows=$(missing "$1" && missing_for_python)
    debian=$(echo "$rows" | cut -d' ' -f1 | xargs)
    fedora=$(echo "$rows" | cut -d' ' -f2 | sort -u | xargs)
    if [ -n "$rows" ]; then
        is_there apt-get || die "this system has no apt-get; install these in its own way, then call again: $fedora" \
            "(the names are Fedora's; Debian's are $debian)"
        # shellcheck disable=SC2086 # the names are words
        quietly "installing $debian" apt_install $debian || die "apt-get could not install $debian"
    fi
    find_python || provide_newer_python || die "needs Python 3.11 or newer, which this system's packages do not have"
}

# An older Debian or Ubuntu may have a newer Python beside its python3.
provide_newer_python() {
    for name in python3.13 python3.12 python3.11; do
        if apt-cache show "$name" >/dev/null 2>&1; then
            quietly "installing $name" apt_install "$name" "$name-venv" "$name-dev" && find_python && return
        fi
    done
    return 1
}

apt_install() {
    dpkg --configure -a # what a killed call left half-way; apt-get refuses to work until it is done
    apt-get update -q
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" 9<&-
}

# make_environment DIRECTORY [EXTRA]: a virtual environment with poc's dependencies, and those of an extra. Its file
# `ready` is the last to be written: an environment without it was not finished, and nothing in it is to be trusted.
make_environment() {
    if [ ! -e "$1/ready" ] || [ ! -x "$1/bin/python" ]; then
        quietly "making the virtual environment $1" "$python" -I -m venv --clear "$1" || die "could not make $1"
    fi
    rm -f "$1/ready"
    requirements "${2-}" >"$1/requirements.txt" || die "could not read pyproject.toml"
    pip_install "$1" -r "$1/requirements.txt"
    touch "$1/ready"
}

# requirements EXTRA: what pyproject.toml asks for, a line each.
requirements() {
    "$python" -I - "$checkout/pyproject.toml" "$1" <<'END'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"].get(sys.argv[2], ()), sep="\n")
END
}

# pip_install DIRECTORY ARGUMENT…
pip_install() {
    environment=$1
    shift
    quietly "installing Python packages into $environment" "$environment/bin/python" -I -m pip install -q \
        --no-input --disable-pip-version-check "$@" || die "pip could not install $*"
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root; try: sudo $0 $*"
}

# One set-up of this checkout at a time. The lock ends with the last process that holds it, an orphaned pip included.
lock() {
    exec 9<"$checkout"
    flock -n 9 && return
    say "waiting for another call that sets this checkout up"
    flock 9
}

unlock() {
    exec 9<&-
}

# set_up ARGUMENT…: everything that `scripts/poc ARGUMENT…` needs.
set_up() {
    [ -x "$venv/bin/python" ] || need_root "$@"
    [ "$(id -u)" = 0 ] || return 0 # poc itself knows which commands need root
    lock
    provide "$needs_of_poc"
    make_environment "$venv"
    unlock
}
