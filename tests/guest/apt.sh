# shellcheck shell=bash
# shellcheck disable=SC2016 # $(RELEASE) and $(REPO_URI) are apt's own variables
# Packages, without altering the machine's own apt configuration. Sourced by `test` and `tests/guest/build`.
#
# The archive's address is asked of apt itself (`indextargets` reads both forms of source entries, deb822 and one-line),
# so a mirror the machine uses is used here too. Other suites of that archive go into a private configuration below
# $CACHE/apt; the machine's own lists, sources and preferences stay as they are.

CACHE=${SRIOV_DRA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sriov-dra}
DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# why_no_apt: prints why packages can't be had here, or nothing.
why_no_apt() {
    local id codename
    command -v apt-get >/dev/null || { echo "this is no Debian machine (no apt-get)"; return; }
    id=$(. /etc/os-release && echo "${ID:-}")
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$id" = debian ] || { echo "its packages come from a Debian archive and this is ${id:-an unknown system}"; return; }
    [ -n "$(archive_of "$codename")" ] || echo "apt has no source entry for $codename"
}

# archive_of SUITE: the address apt fetches a suite from. (Without --no-release-info only what was fetched already would
# be listed, which in a fresh container image is nothing.)
archive_of() {
    # The awk reads to the end: leaving early would break the pipe under pipefail.
    apt-get --no-release-info indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$1" '$1 == suite && !seen { seen = $2 } END { if (seen) print seen }'
}

# apt_entry URI SUITE: one source line; the keyring is named where the machine has it.
apt_entry() {
    if [ -r "$DEBIAN_KEYS" ]; then
        echo "deb [signed-by=$DEBIAN_KEYS] $1 $2 main"
    else
        echo "deb $1 $2 main"
    fi
}

# apt_private COMMAND...: apt-get or apt-cache with the private configuration and the machine's package status.
apt_private() {
    local tool=$1
    shift
    "$tool" -o Dir::Etc::sourcelist="$CACHE/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State::lists="$CACHE/apt/lists" -o Dir::Cache="$CACHE/apt/cache" \
        -o APT::Sandbox::User=root -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

# apt_refresh: the machine's Debian suites plus the backports suite of its release, listed privately, once a run.
apt_refresh() {
    local codename base
    [ -z "${APT_REFRESHED:-}" ] || return 0
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    base=$(archive_of "$codename")
    mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
    {
        apt-get --no-release-info indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
            sort -u | while read -r suite uri; do
            case $suite in "$codename" | "$codename"-security | "$codename"-updates) apt_entry "$uri" "$suite" ;; esac
        done
        apt_entry "$base" "$codename-backports"
    } >"$CACHE/apt/sources.list"
    # A suite without backports (a very new release) is no reason to stop: the packages asked for decide.
    apt_private apt-get -qq update || echo "apt: not every suite could be listed; going on" >&2
    APT_REFRESHED=1
}

# apt_install PACKAGE...: installs what is missing on the machine; root only.
apt_install() {
    apt_refresh
    local -a options=(-qq -y --no-install-recommends)
    DEBIAN_FRONTEND=noninteractive apt_private apt-get "${options[@]}" install "$@" >&2
}

# apt_candidate PACKAGE: the version that would be installed.
apt_candidate() {
    apt_private apt-cache policy "$1" | sed -n 's/^ *Candidate: *//p'
}
