"""Writes data/completions from the command line's own parser; ``--check`` only says whether they are up to date.

Everything is static but names: those of machines are read from the definition with sed, those of sessions and layers
from the state directory (which only root may read). Roost itself is never started: a completion costs nothing.
"""

from __future__ import annotations

import sys

from commandline import CommandLine, Option, Positional, Verb, generate, read

# What a value is, by the word that stands for it in the help: a kind that every shell below knows.
KINDS = {
    "MACHINES": "machines", "MACHINE": "machines", "SESSION": "sessions", "LAYER": "layers", "FILE": "files",
    "DIR": "directories", "DIR[:TARGET]": "directories", "SRC[:DST[:rw]]": "files",
}  # fmt: skip
INSIDE = {"--content", "--directory"}  # paths of the machine, which the host does not have
HEAD = "Written by tools/completions.py from the parser of roost: do not edit."

# POSIX sh, for all three: the names, one on a line. $1 a definition, empty for the default; $2 a state directory.
NAMES = r"""
_roost_machines() {
    sed -n 's/^ *\[machines\."\{0,1\}\([a-z0-9-]*\).*/\1/p' "${1:-roost.toml}" 2>/dev/null | sort -u | grep . ||
        { [ -z "$1" ] && sed -n 's/^ *\[machines\."\{0,1\}\([a-z0-9-]*\).*/\1/p' /etc/roost/machines/*.toml 2>/dev/null | sort -u; }
}
_roost_sessions() { ls "${2:-${ROOST_STATE:-/var/lib/roost}}/sessions" 2>/dev/null; }
_roost_layers() {
    ls "${2:-${ROOST_STATE:-/var/lib/roost}}/names" "${2:-${ROOST_STATE:-/var/lib/roost}}/layers" 2>/dev/null |
        grep -v -e : -e '^$' | cut -c 1-64
}
"""


def _kind(value: Option | Positional) -> str:
    if isinstance(value, Option) and value.names[-1] in INSIDE:
        return "nothing"
    return KINDS.get(value.value, "nothing")


def _words(options: tuple[Option, ...]) -> list[str]:
    """Every way to write the options: with ``=`` where a value needs one."""
    found = [name for option in options for name in option.names]
    return found + [f"{o.names[-1]}={choice}" for o in options if o.bare for choice in o.choices if choice != "never"]


def _positional_kind(verb: Verb) -> str:
    return _kind(verb.positionals[0]) if verb.positionals else "nothing"


# bash


def bash(line: CommandLine) -> str:
    """A function for bash's own `complete`: it needs no bash-completion."""
    valued = [
        o
        for o in {o.names: o for v in line.verbs for o in (*line.common, *v.options)}.values()
        if o.value and not o.bare
    ]
    kinds: dict[str, list[str]] = {}
    for option in valued:
        kinds.setdefault(_kind(option), []).extend(option.names)
    arms = "".join(f"            {'|'.join(names)}) kind={kind} ;;\n" for kind, names in kinds.items())
    cases = "".join(
        f"        '{' '.join(verb.words)}') options='{' '.join(_words(verb.options))}'; kind={_positional_kind(verb)} ;;\n"
        for verb in line.verbs
    )
    groups = "".join(
        f"        {name}) words='{' '.join(v.words[1] for v in line.verbs if v.words[0] == name)}' ;;\n"
        for name in line.groups
    )
    first = " ".join(dict.fromkeys(verb.words[0] for verb in line.verbs))
    return BASH.format(
        head=HEAD, names=NAMES, valued="|".join(name for option in valued for name in option.names), arms=arms, cases=cases,
        groups=groups, first=first, common=" ".join([*_words(line.common), "--help"]), group="|".join(line.groups),
    )  # fmt: skip


BASH = r"""# bash completion for roost. {head}
{names}
_roost() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev= verb= file= state= kind=nothing options= words= i word
    COMPREPLY=()
    ((COMP_CWORD > 0)) && prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
            --) return ;;  # a command of the machine
            -f|--file) file=${{COMP_WORDS[i + 1]}}; ((i++)) ;;
            --state) state=${{COMP_WORDS[i + 1]}}; ((i++)) ;;
            {valued}) ((i++)) ;;
            -*|=) ;;
            *)
                if [[ -z $verb ]]; then verb=$word
                elif [[ $verb == @({group}) ]]; then verb+=" $word"
                fi ;;
        esac
    done
    if [[ $cur == = || $prev == = ]]; then  # bash takes --keep=always for three words
        [[ $cur == = ]] && cur= || prev=${{COMP_WORDS[COMP_CWORD - 2]}}
        [[ ${{COMP_WORDS[COMP_CWORD - 1]}} == --keep || $prev == --keep ]] && words='always on-failure'
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    case $verb in
        '') words='{first}' ;;
{groups}{cases}    esac
    case $prev in
{arms}    esac
    case $prev in
        {valued}) words= ;;
        *) [[ $cur == -* ]] && words="$options {common}" && kind=nothing ;;
    esac
    case $kind in
        machines) words+=" $(_roost_machines "$file")" ;;
        sessions) words+=" $(_roost_sessions '' "$state")" ;;
        layers) words+=" $(_roost_layers '' "$state")" ;;
        files) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
        directories) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
    esac
    if [[ $kind == machines && $cur == *,* ]]; then  # a comma list
        mapfile -t COMPREPLY < <(compgen -P "${{cur%,*}}," -W "$words" -- "${{cur##*,}}")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}}
complete -o default -F _roost roost
"""


# zsh

_ZSH_ACTIONS = {
    "machines": "_roost_names machines", "sessions": "_roost_names sessions", "layers": "_roost_names layers", "files": "_files",
    "directories": "_files -/", "nothing": " ",
}  # fmt: skip


def _zsh_text(text: str) -> str:
    """For _arguments, in single quotes: it takes ':', '[' and ']' for its own."""
    return "".join(f"\\{c}" if c in "[]:" else c for c in text).replace("'", "'\\''")


def _zsh_option(option: Option) -> list[str]:
    found = []
    for name in option.names:
        value = f":{_zsh_text(option.value)}:{_ZSH_ACTIONS[_kind(option)]}" if option.value else ""
        sign = "=" if option.value and name.startswith("--") else "+" if option.value else ""
        if option.bare:
            sign, value = "=-", f"::when:({' '.join(c for c in option.choices if c != 'never')})"
        found.append(f"'*{name}{sign}[{_zsh_text(option.help)}]{value}'")
    return found


def _zsh_verb(verb: Verb) -> str:
    lines = [spec for option in verb.options for spec in _zsh_option(option)]
    for number, one in enumerate(verb.positionals, 1):
        place = "*" if one.many else str(number)
        lines.append(f"'{place}:{_zsh_text(one.value.lower())}:{_ZSH_ACTIONS[_kind(one)]}'")
    text = " \\\n                ".join(["_arguments -S : $common", *lines])
    return f"            {'-'.join(verb.words)})\n                {text} ;;\n"


def zsh(line: CommandLine) -> str:
    """A function for zsh's completion system."""
    top: dict[str, str] = {}
    for verb in line.verbs:
        top.setdefault(verb.words[0], line.groups.get(verb.words[0], verb.summary))
    described = "".join(f"                '{name}:{_zsh_text(summary)}'\n" for name, summary in top.items())
    inner = ""
    for group in line.groups:
        names = "".join(f" '{v.words[1]}:{_zsh_text(v.summary)}'" for v in line.verbs if v.words[0] == group)
        inner += f"            {group}) below=({names.strip()}) ;;\n"
    common = "".join(f"        {spec}\n" for option in line.common for spec in _zsh_option(option))
    return ZSH.format(
        head=HEAD, names=NAMES, common=common, verbs=described, inner=inner, cases="".join(map(_zsh_verb, line.verbs)),
        groups="|".join(line.groups),
    )  # fmt: skip


ZSH = r"""#compdef roost
# zsh completion for roost. {head}
{names}
_roost_names() {{  # _arguments puts options for compadd before the kind
    local -a found
    found=(${{(f)"$(_roost_${{@[-1]}} "${{opt_args[--file]:-$opt_args[-f]}}" "$opt_args[--state]")"}})
    compadd "${{@[1,-2]}}" -a found
}}

_roost() {{
    local curcontext=$curcontext state line verb
    local -a common verbs below
    local -A opt_args
    common=(
{common}    )
    (( ${{words[(I)--]}} && ${{words[(I)--]}} < CURRENT )) && {{ _default; return }}
    _arguments -C -S : $common '--version[print the version]' '1:verb:->verb' '*::rest:->rest' && return
    case $state in
        verb)
            verbs=(
{verbs}            )
            _describe verb verbs
            return ;;
    esac
    verb=$words[1]
    case $verb in
        {groups})
            if (( CURRENT == 2 )); then
                case $verb in
{inner}                esac
                _describe verb below
                return
            fi
            shift words
            (( CURRENT-- ))
            verb+=-$words[1] ;;
    esac
    case $verb in
{cases}    esac
}}

_roost "$@"
"""


# fish


def fish(line: CommandLine) -> str:
    """Lines of `complete`."""
    lines = [f"# fish completion for roost. {HEAD}"]
    functions = {"machines": "_roost_machines", "sessions": "_roost_sessions", "layers": "_roost_layers"}
    lines += [f"function {name}\n    sh -c {_fish_text(NAMES + name)} sh\nend" for name in functions.values()]
    lines.append("complete -c roost -n __fish_use_subcommand -f")
    lines += [_fish_option(option, "") for option in line.common]
    lines.append("complete -c roost -n __fish_use_subcommand -l version -d 'print the version'")
    seen: set[str] = set()
    for verb in line.verbs:
        name = verb.words[0]
        if name not in seen:
            seen.add(name)
            text = _fish_text(line.groups.get(name, verb.summary))
            lines.append(f"complete -c roost -n __fish_use_subcommand -f -a {name} -d {text}")
        when = f"__fish_seen_subcommand_from {name}"
        if name in line.groups:
            others = " ".join(v.words[1] for v in line.verbs if v.words[0] == name)
            alone = f"{when}; and not __fish_seen_subcommand_from {others}"
            lines.append(f"complete -c roost -n '{alone}' -f -a {verb.words[1]} -d {_fish_text(verb.summary)}")
            when += f"; and __fish_seen_subcommand_from {verb.words[1]}"
        lines += [_fish_option(option, when) for option in verb.options]
        for one in verb.positionals:
            if function := functions.get(_kind(one)):
                lines.append(f"complete -c roost -n '{when}' -f -a '({function})'")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_option(option: Option, when: str) -> str:
    words = ["complete -c roost"]
    words += [f"-n '{when}'"] if when else []
    words += [f"-s {name[1:]}" if len(name) == 2 else f"-l {name[2:]}" for name in option.names]
    kind = _kind(option)
    if option.bare:
        words.append(f"-f -a '{' '.join(c for c in option.choices if c != 'never')}'")
    elif option.value:
        words.append({"files": "-r -F", "directories": "-x -a '(__fish_complete_directories)'"}.get(kind, "-x"))
    return " ".join([*words, "-d", _fish_text(option.help)])


def files(line: CommandLine) -> dict[str, str]:
    """Path below the checkout → content."""
    top = "data/completions"
    return {f"{top}/roost.bash": bash(line), f"{top}/_roost": zsh(line), f"{top}/roost.fish": fish(line)}


if __name__ == "__main__":
    sys.exit(generate(files(read()), check=sys.argv[1:] == ["--check"]))
