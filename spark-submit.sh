#!/usr/bin/env bash
# Submits a job: makes the environment if there is none, then hands over to Spark's own spark-submit.
set -euo pipefail

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

say() { echo "likeness: $*" >&2; }

job_names() {
  local file
  for file in "$root"/jobs/[!_]*.py; do
    file=$(basename "$file" .py)
    echo "${file//_/-}"
  done
}

usage() {
  local job
  echo "usage: ./spark-submit.sh JOB [flags] [-- spark-submit options]"
  echo "       ./spark-submit.sh JOB --help"
  echo
  echo "jobs:"
  for job in $(job_names); do
    printf '  %-16s %s\n' "$job" "$(awk -F'"""' 'NF > 1 { print $2; exit }' "$root/jobs/${job//-/_}.py")"
  done
}

find_python() {
  local python
  for python in ${LIKENESS_PYTHON:+"$LIKENESS_PYTHON"} python3 python3.{14..11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$python"
      return
    fi
  done
  say "needs Python 3.11 or newer, and none is on PATH; install python3.11 or newer, or set LIKENESS_PYTHON"
  return 1
}

case ${1:-} in
  "" | -h | --help | help)
    usage
    exit 0
    ;;
esac
name=$1
job="$root/jobs/${name//-/_}.py"
shift
bootstrap=$(find_python)
if [[ ! -f $job ]]; then
  nearest='import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.stdin.read().split(), 1))'
  near=$(job_names | "$bootstrap" -c "$nearest" "$name")
  say "there is no job $name${near:+; did you mean $near?}"
  usage >&2
  exit 2
fi

environment=$("$bootstrap" "$root/deploy/environment.py" --print)
{ read -r python && read -r SPARK_HOME && read -r jars; } <<< "$environment"

flags=() dry=
for flag in "$@"; do
  case $flag in
    --) break ;;
    --help) exec "$python" "$job" --help ;; # no need for a JVM
    --dry-run) dry=yes ;;
  esac
  flags+=("$flag")
done
[[ -z $dry ]] || exec "$python" "$job" "${flags[@]}" # nor for saying what would be done

# A Spark or a Python that happens to be set on this machine is not the one that likeness was tried with.
export SPARK_HOME PYSPARK_PYTHON=$python PYSPARK_DRIVER_PYTHON=$python LIKENESS_JARS=$jars
export SPARK_CONF_DIR=${SPARK_CONF_DIR:-$root/deploy/conf}

# The JVM stands between the job and a terminal: the job is told that there is one, and how wide.
if [[ -t 1 ]]; then
  export LIKENESS_TERMINAL=1 COLUMNS=${COLUMNS:-$(tput cols 2> /dev/null || echo 80)}
fi

# The JVM warns of a module that Spark's own options ask for: nothing a user could do about it.
quiet() { trap '' INT TERM && exec grep -v --line-buffered '^WARNING: Using incubator modules' >&2; }
exec "$python" -m likeness.spark.submit.submit "$job" "$@" 2> >(quiet)
