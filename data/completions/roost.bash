# bash completion for roost. Written by tools/completions.py from the parser of roost: do not edit.

_roost_machines() {
    sed -n 's/^ *\[machines\."\{0,1\}\([a-z0-9-]*\).*/\1/p' "${1:-roost.toml}" 2>/dev/null | sort -u | grep . ||
        { [ -z "$1" ] && sed -n 's/^ *\[machines\."\{0,1\}\([a-z0-9-]*\).*/\1/p' /etc/roost/machines/*.toml 2>/dev/null | sort -u; }
}
_roost_sessions() { ls "${2:-${ROOST_STATE:-/var/lib/roost}}/sessions" 2>/dev/null; }
_roost_layers() {
    ls "${2:-${ROOST_STATE:-/var/lib/roost}}/names" "${2:-${ROOST_STATE:-/var/lib/roost}}/layers" 2>/dev/null |
        grep -v -e : -e '^$' | cut -c 1-64
}

_roost() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev= verb= file= state= kind=nothing options= words= i word
    COMPREPLY=()
    ((COMP_CWORD > 0)) && prev=${COMP_WORDS[COMP_CWORD - 1]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --) return ;;  # a command of the machine
            -f|--file) file=${COMP_WORDS[i + 1]}; ((i++)) ;;
            --state) state=${COMP_WORDS[i + 1]}; ((i++)) ;;
            -f|--file|--state|-j|--jobs|--profile|--matrix|--junit|-u|--user|-w|--directory|--env|--source|--bind|--limit|--timeout|--artifact|--output|--content|--family|-n|--lines) ((i++)) ;;
            -*|=) ;;
            *)
                if [[ -z $verb ]]; then verb=$word
                elif [[ $verb == @(session|layer|network) ]]; then verb+=" $word"
                fi ;;
        esac
    done
    if [[ $cur == = || $prev == = ]]; then  # bash takes --keep=always for three words
        [[ $cur == = ]] && cur= || prev=${COMP_WORDS[COMP_CWORD - 2]}
        [[ ${COMP_WORDS[COMP_CWORD - 1]} == --keep || $prev == --keep ]] && words='always on-failure'
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    case $verb in
        '') words='init schema list plan doctor build run shell session adopt layer gc up down restart rollback status enable disable exec login logs network' ;;
        session) words='list shell diff keep commit remove' ;;
        layer) words='list show remove verify check' ;;
        network) words='list check repair' ;;
        'init') options='--force'; kind=files ;;
        'schema') options=''; kind=nothing ;;
        'list') options=''; kind=machines ;;
        'plan') options=''; kind=machines ;;
        'doctor') options='--repair --apply'; kind=nothing ;;
        'build') options='-j --jobs --update --verify --keep-failed'; kind=machines ;;
        'run') options='--all --profile -j --jobs --matrix --fail-fast --timings --junit --verify -u --user -w --directory --env --source --bind --limit --keep --timeout --artifact --output --keep=always --keep=on-failure'; kind=machines ;;
        'shell') options='--running --verify -u --user -w --directory --env --source --bind --limit --keep --keep=always --keep=on-failure'; kind=machines ;;
        'session list') options=''; kind=nothing ;;
        'session shell') options='-u --user'; kind=sessions ;;
        'session diff') options='--content'; kind=sessions ;;
        'session keep') options=''; kind=sessions ;;
        'session commit') options=''; kind=sessions ;;
        'session remove') options=''; kind=sessions ;;
        'adopt') options='--family'; kind=directories ;;
        'layer list') options=''; kind=nothing ;;
        'layer show') options='--spdx'; kind=layers ;;
        'layer remove') options=''; kind=layers ;;
        'layer verify') options='-j --jobs'; kind=layers ;;
        'layer check') options='--run'; kind=nothing ;;
        'gc') options='--dry-run'; kind=nothing ;;
        'up') options='--ephemeral --update --no-wait --enabled -j --jobs'; kind=machines ;;
        'down') options='--remove'; kind=machines ;;
        'restart') options=''; kind=machines ;;
        'rollback') options=''; kind=machines ;;
        'status') options=''; kind=machines ;;
        'enable') options=''; kind=machines ;;
        'disable') options=''; kind=machines ;;
        'exec') options='-u --user -w --directory --env --timeout'; kind=machines ;;
        'login') options=''; kind=machines ;;
        'logs') options='-f --follow -n --lines'; kind=machines ;;
        'network list') options=''; kind=nothing ;;
        'network check') options=''; kind=machines ;;
        'network repair') options=''; kind=machines ;;
    esac
    case $prev in
            -f|--file|--junit|--bind) kind=files ;;
            --state|--source|--output) kind=directories ;;
            -j|--jobs|--profile|--matrix|-u|--user|-w|--directory|--env|--limit|--timeout|--artifact|--content|--family|-n|--lines) kind=nothing ;;
    esac
    case $prev in
        -f|--file|--state|-j|--jobs|--profile|--matrix|--junit|-u|--user|-w|--directory|--env|--source|--bind|--limit|--timeout|--artifact|--output|--content|--family|-n|--lines) words= ;;
        *) [[ $cur == -* ]] && words="$options -f --file --state --json -q --quiet -v --verbose --help" && kind=nothing ;;
    esac
    case $kind in
        machines) words+=" $(_roost_machines "$file")" ;;
        sessions) words+=" $(_roost_sessions '' "$state")" ;;
        layers) words+=" $(_roost_layers '' "$state")" ;;
        files) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
        directories) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
    esac
    if [[ $kind == machines && $cur == *,* ]]; then  # a comma list
        mapfile -t COMPREPLY < <(compgen -P "${cur%,*}," -W "$words" -- "${cur##*,}")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}
complete -o default -F _roost roost
