#!/usr/bin/env bash
# Publish a folder of pages on the branch gh-pages of the remote origin:
#   tools/pages.sh SITE                     at the top; previews and versions stay
#   tools/pages.sh SITE preview/12          beside it: the preview of pull request 12
#   tools/pages.sh SITE versions/v0.2.0     beside it: the book of a release
#   tools/pages.sh --remove preview/12
# The branch always has one commit, so that it does not grow with each build. If someone else publishes at the same
# time, this starts again from what they left.
set -euo pipefail
site=${1:?usage: tools/pages.sh SITE [PLACE], or tools/pages.sh --remove PLACE}
place=${2:-}
[[ $place =~ ^(preview/[0-9]+|versions/v[0-9]+\.[0-9]+\.[0-9]+|)$ ]] || { echo "no such place: $place" >&2; exit 2; }
[[ $site == --remove && -n $place || -e $site/index.html ]] || { echo "$site has no index.html" >&2; exit 2; }
[[ $site == --remove ]] || site=$(realpath "$site")
remote=$(git remote get-url origin)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
own() { git -C "$work/tree" -c user.name="GitHub Pages" -c user.email=pages@localhost "$@"; }

list_versions() {
    local names
    names=$(find "$work/tree/versions" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort --version-sort --reverse)
    {
        echo '<!doctype html><html lang="en"><meta charset="utf-8"><title>Versions</title>'
        echo '<h1>Versions of the book</h1><ul>'
        sed 's,.*,<li><a href="&/index.html">&</a>,' <<< "$names"
        echo '</ul></html>'
    } > "$work/tree/versions/index.html"
}

publish() {
    rm -rf "$work/tree"
    git init --quiet "$work/tree"
    old=$(git ls-remote "$remote" refs/heads/gh-pages | cut -f 1)
    if [[ -n $old ]]; then
        own fetch --quiet --depth 1 "$remote" "$old"
        own checkout --quiet "$old" -- .
    fi
    if [[ -n $place ]]; then
        rm -rf "${work:?}/tree/$place"
    else
        find "$work/tree" -mindepth 1 -maxdepth 1 ! -name .git ! -name CNAME ! -name preview ! -name versions \
            -exec rm -rf {} +
    fi
    if [[ $site != --remove ]]; then
        mkdir -p "$work/tree/$place"
        cp -r "$site/." "$work/tree/$place"
    fi
    [[ ! -d $work/tree/versions ]] || list_versions
    touch "$work/tree/.nojekyll"  # else the forge leaves out folders such as _static
    own add --all --force
    own commit --quiet --message "Pages"
    own push --quiet --force-with-lease="gh-pages:$old" "$remote" HEAD:refs/heads/gh-pages
}

for attempt in 1 2 3 4 5; do
    set +e  # and not `if (publish)`, within which no failure would stop it
    (set -e; publish)
    code=$?
    set -e
    [[ $code != 0 ]] || exit 0
    echo "attempt $attempt to publish failed" >&2
    sleep "${PAGES_WAIT:-10}"
done
exit 1
