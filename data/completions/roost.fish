# fish completion for roost. Written by tools/completions.py from the parser of roost: do not edit.
function _roost_machines
    sh -c '
_roost_machines() {
    sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "${1:-roost.toml}" 2>/dev/null | sort -u | grep . ||
        { [ -z "$1" ] && sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' /etc/roost/machines/*.toml 2>/dev/null | sort -u; }
}
_roost_sessions() { ls "${2:-${ROOST_STATE:-/var/lib/roost}}/sessions" 2>/dev/null; }
_roost_layers() {
    ls "${2:-${ROOST_STATE:-/var/lib/roost}}/names" "${2:-${ROOST_STATE:-/var/lib/roost}}/layers" 2>/dev/null |
        grep -v -e : -e \'^$\' | cut -c 1-64
}
_roost_machines' sh
end
function _roost_sessions
    sh -c '
_roost_machines() {
    sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "${1:-roost.toml}" 2>/dev/null | sort -u | grep . ||
        { [ -z "$1" ] && sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' /etc/roost/machines/*.toml 2>/dev/null | sort -u; }
}
_roost_sessions() { ls "${2:-${ROOST_STATE:-/var/lib/roost}}/sessions" 2>/dev/null; }
_roost_layers() {
    ls "${2:-${ROOST_STATE:-/var/lib/roost}}/names" "${2:-${ROOST_STATE:-/var/lib/roost}}/layers" 2>/dev/null |
        grep -v -e : -e \'^$\' | cut -c 1-64
}
_roost_sessions' sh
end
function _roost_layers
    sh -c '
_roost_machines() {
    sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "${1:-roost.toml}" 2>/dev/null | sort -u | grep . ||
        { [ -z "$1" ] && sed -n \'s/^ *\\[machines\\."\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' /etc/roost/machines/*.toml 2>/dev/null | sort -u; }
}
_roost_sessions() { ls "${2:-${ROOST_STATE:-/var/lib/roost}}/sessions" 2>/dev/null; }
_roost_layers() {
    ls "${2:-${ROOST_STATE:-/var/lib/roost}}/names" "${2:-${ROOST_STATE:-/var/lib/roost}}/layers" 2>/dev/null |
        grep -v -e : -e \'^$\' | cut -c 1-64
}
_roost_layers' sh
end
complete -c roost -n __fish_use_subcommand -f
complete -c roost -s f -l file -r -F -d 'the definition (default: ./roost.toml, else /etc/roost/machines/*.toml)'
complete -c roost -l state -x -a '(__fish_complete_directories)' -d 'keep everything below DIR (default: $ROOST_STATE, else /var/lib/roost)'
complete -c roost -l json -d 'print results as one JSON document'
complete -c roost -s q -l quiet -d 'print no progress'
complete -c roost -s v -l verbose -d 'print everything that the steps of layers say; of a plan, the commands of each layer'
complete -c roost -n __fish_use_subcommand -l version -d 'print the version'
complete -c roost -n __fish_use_subcommand -f -a init -d 'write a commented starter definition'
complete -c roost -n '__fish_seen_subcommand_from init' -l force -d 'replace a file that exists'
complete -c roost -n __fish_use_subcommand -f -a schema -d 'print the definition\'s JSON Schema, for editors'
complete -c roost -n __fish_use_subcommand -f -a list -d 'list the machines and their state'
complete -c roost -n '__fish_seen_subcommand_from list' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a plan -d 'say which layers would be made, and why'
complete -c roost -n '__fish_seen_subcommand_from plan' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a doctor -d 'say what this host can do and what it lacks, with the remedy'
complete -c roost -n '__fish_seen_subcommand_from doctor' -l repair -d 'clear what a crash or a power cut left in the store'
complete -c roost -n '__fish_seen_subcommand_from doctor' -l apply -d 'install the SELinux module that allows what was refused to machines'
complete -c roost -n __fish_use_subcommand -f -a build -d 'make the missing layers, independent ones side by side'
complete -c roost -n '__fish_seen_subcommand_from build' -s j -l jobs -x -d 'layers made at a time (default: by cores and memory)'
complete -c roost -n '__fish_seen_subcommand_from build' -l update -d 'make all layers anew, from the packages that there are now, and say which changed'
complete -c roost -n '__fish_seen_subcommand_from build' -l verify -d 'first compare the layers that are there with what they were when made'
complete -c roost -n '__fish_seen_subcommand_from build' -l keep-failed -d 'keep what a failed layer has so far as a session, to look into'
complete -c roost -n '__fish_seen_subcommand_from build' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a run -d 'run a command in throwaway sessions'
complete -c roost -n '__fish_seen_subcommand_from run' -l all -d 'all machines of the definition'
complete -c roost -n '__fish_seen_subcommand_from run' -l profile -x -d 'only machines that have this profile'
complete -c roost -n '__fish_seen_subcommand_from run' -s j -l jobs -x -d 'machines at a time (default: by cores and memory)'
complete -c roost -n '__fish_seen_subcommand_from run' -l matrix -x -d 'a run for each value, which is in the environment as NAME; again: for each combination'
complete -c roost -n '__fish_seen_subcommand_from run' -l fail-fast -d 'start nothing more once one has not passed'
complete -c roost -n '__fish_seen_subcommand_from run' -l timings -d 'say where the time of the run went'
complete -c roost -n '__fish_seen_subcommand_from run' -l junit -r -F -d 'write the results as JUnit XML too'
complete -c roost -n '__fish_seen_subcommand_from run' -l verify -d 'start nothing unless every layer is what it was when it was made'
complete -c roost -n '__fish_seen_subcommand_from run' -s u -l user -x -d 'run as this user of the machine, a name or a number (default: root)'
complete -c roost -n '__fish_seen_subcommand_from run' -s w -l directory -x -d 'run in this directory (default: that of the source, else the user\'s home)'
complete -c roost -n '__fish_seen_subcommand_from run' -l env -x -d 'set a variable; without a value, pass on the caller\'s'
complete -c roost -n '__fish_seen_subcommand_from run' -l source -x -a '(__fish_complete_directories)' -d 'show DIR as a copy-on-write tree (default: at /src); DIR itself stays as it is'
complete -c roost -n '__fish_seen_subcommand_from run' -l bind -r -F -d 'show a path of the host (default: at the same path), read-only unless rw'
complete -c roost -n '__fish_seen_subcommand_from run' -l limit -x -d 'memory, cpus, tasks, disk, time or output, instead of the machine\'s own; infinity: none'
complete -c roost -n '__fish_seen_subcommand_from run' -l keep -f -a 'always on-failure' -d 'keep the session: --keep or --keep=on-failure'
complete -c roost -n '__fish_seen_subcommand_from run' -l timeout -x -d 'end it after TIME (90, 15m, 2h): first SIGTERM, then SIGKILL'
complete -c roost -n '__fish_seen_subcommand_from run' -l artifact -x -d 'copy out the files that match, relative to the working directory'
complete -c roost -n '__fish_seen_subcommand_from run' -l output -x -a '(__fish_complete_directories)' -d 'where artifacts go, as DIR/MACHINE/ (default: artifacts)'
complete -c roost -n '__fish_seen_subcommand_from run' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a shell -d 'open a shell in a throwaway session'
complete -c roost -n '__fish_seen_subcommand_from shell' -l running -d 'in the machine itself that is up, not in a session of its own'
complete -c roost -n '__fish_seen_subcommand_from shell' -l verify -d 'start nothing unless every layer is what it was when it was made'
complete -c roost -n '__fish_seen_subcommand_from shell' -s u -l user -x -d 'run as this user of the machine, a name or a number (default: root)'
complete -c roost -n '__fish_seen_subcommand_from shell' -s w -l directory -x -d 'run in this directory (default: that of the source, else the user\'s home)'
complete -c roost -n '__fish_seen_subcommand_from shell' -l env -x -d 'set a variable; without a value, pass on the caller\'s'
complete -c roost -n '__fish_seen_subcommand_from shell' -l source -x -a '(__fish_complete_directories)' -d 'show DIR as a copy-on-write tree (default: at /src); DIR itself stays as it is'
complete -c roost -n '__fish_seen_subcommand_from shell' -l bind -r -F -d 'show a path of the host (default: at the same path), read-only unless rw'
complete -c roost -n '__fish_seen_subcommand_from shell' -l limit -x -d 'memory, cpus, tasks, disk, time or output, instead of the machine\'s own; infinity: none'
complete -c roost -n '__fish_seen_subcommand_from shell' -l keep -f -a 'always on-failure' -d 'keep the session: --keep or --keep=on-failure'
complete -c roost -n '__fish_seen_subcommand_from shell' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a session -d 'look into sessions: list, shell, diff, keep, commit, remove'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a list -d 'list the sessions'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a shell -d 'open a shell in a kept session; its changes stay'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from shell' -s u -l user -x -d 'the user of the shell (default: as the session was run)'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from shell' -f -a '(_roost_sessions)'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a diff -d 'list what a kept session added, changed, removed and replaced'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from diff' -l content -x -d 'show how the text of this one file changed, as a diff'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from diff' -f -a '(_roost_sessions)'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a keep -d 'keep a session whose command is still running'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from keep' -f -a '(_roost_sessions)'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a commit -d 'make a kept session\'s changes a layer, for from = "layer:NAME" in definitions'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from commit' -f -a '(_roost_sessions)'
complete -c roost -n '__fish_seen_subcommand_from session; and not __fish_seen_subcommand_from list shell diff keep commit remove' -f -a remove -d 'remove kept sessions'
complete -c roost -n '__fish_seen_subcommand_from session; and __fish_seen_subcommand_from remove' -f -a '(_roost_sessions)'
complete -c roost -n __fish_use_subcommand -f -a adopt -d 'make layers of a tree kept by hand (base, env, work); it stays as it is'
complete -c roost -n '__fish_seen_subcommand_from adopt' -l family -x -d 'its package manager: apt, dnf, ..., none (default: the one found in it)'
complete -c roost -n __fish_use_subcommand -f -a layer -d 'look into layers: list, show, verify, check, remove'
complete -c roost -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from list show remove verify check' -f -a list -d 'list the layers'
complete -c roost -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from list show remove verify check' -f -a show -d 'say what a layer was made from, and its packages'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from show' -l spdx -d 'print the packages as an SPDX 2.3 document, in JSON, instead'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from show' -f -a '(_roost_layers)'
complete -c roost -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from list show remove verify check' -f -a remove -d 'remove layers that nothing stands on'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from remove' -f -a '(_roost_layers)'
complete -c roost -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from list show remove verify check' -f -a verify -d 'compare layers, file by file, with what they were when made'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from verify' -s j -l jobs -x -d 'layers at a time (default: by cores and memory)'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from verify' -f -a '(_roost_layers)'
complete -c roost -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from list show remove verify check' -f -a check -d 'say whether a tree can run a command and boot, and what it lacks'
complete -c roost -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l run -d 'only what running a command needs'
complete -c roost -n __fish_use_subcommand -f -a gc -d 'remove what nothing uses: layers, and the logs of old runs'
complete -c roost -n '__fish_seen_subcommand_from gc' -l dry-run -d 'only say what would be removed'
complete -c roost -n __fish_use_subcommand -f -a up -d 'boot machines, making what is missing; change what the definition changed'
complete -c roost -n '__fish_seen_subcommand_from up' -l ephemeral -d 'throw away what the machine changes when it goes down'
complete -c roost -n '__fish_seen_subcommand_from up' -l update -d 'make its layers anew from today\'s packages; `roost rollback` goes back'
complete -c roost -n '__fish_seen_subcommand_from up' -l no-wait -d 'do not wait until the machine is ready'
complete -c roost -n '__fish_seen_subcommand_from up' -l enabled -d 'those that come up with the host'
complete -c roost -n '__fish_seen_subcommand_from up' -s j -l jobs -x -d 'layers made at a time (default: by cores and memory)'
complete -c roost -n '__fish_seen_subcommand_from up' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a down -d 'end machines: orderly, then firmly'
complete -c roost -n '__fish_seen_subcommand_from down' -l remove -d 'forget the named ones (\'*\': all) too: their changes, units and addresses'
complete -c roost -n '__fish_seen_subcommand_from down' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a restart -d 'end machines and boot them again'
complete -c roost -n '__fish_seen_subcommand_from restart' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a rollback -d 'put a machine back over the layers before its last update'
complete -c roost -n '__fish_seen_subcommand_from rollback' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a status -d 'say how the machines are that were brought up'
complete -c roost -n '__fish_seen_subcommand_from status' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a enable -d 'let machines come up with the host'
complete -c roost -n '__fish_seen_subcommand_from enable' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a disable -d 'do not let machines come up with the host any more'
complete -c roost -n '__fish_seen_subcommand_from disable' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a exec -d 'run a command in a machine that is up'
complete -c roost -n '__fish_seen_subcommand_from exec' -s u -l user -x -d 'run as this user of the machine, a name or a number (default: root)'
complete -c roost -n '__fish_seen_subcommand_from exec' -s w -l directory -x -d 'run in this directory (default: that of the source, else the user\'s home)'
complete -c roost -n '__fish_seen_subcommand_from exec' -l env -x -d 'set a variable; without a value, pass on the caller\'s'
complete -c roost -n '__fish_seen_subcommand_from exec' -l timeout -x -d 'end it after TIME (90, 15m, 2h): first SIGTERM, then SIGKILL'
complete -c roost -n '__fish_seen_subcommand_from exec' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a login -d 'log into a machine that is up, as its own login(1) lets'
complete -c roost -n '__fish_seen_subcommand_from login' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a logs -d 'show a machine\'s journal, or what its console said'
complete -c roost -n '__fish_seen_subcommand_from logs' -s f -l follow -d 'go on with what it says'
complete -c roost -n '__fish_seen_subcommand_from logs' -s n -l lines -x -d 'the last N lines (default: 50)'
complete -c roost -n '__fish_seen_subcommand_from logs' -f -a '(_roost_machines)'
complete -c roost -n __fish_use_subcommand -f -a network -d 'look into private networks: list, check, repair'
complete -c roost -n '__fish_seen_subcommand_from network; and not __fish_seen_subcommand_from list check repair' -f -a list -d 'list the addresses of machines, and their published ports'
complete -c roost -n '__fish_seen_subcommand_from network; and not __fish_seen_subcommand_from list check repair' -f -a check -d 'follow a packet from machines to the outside, and name the hop that fails'
complete -c roost -n '__fish_seen_subcommand_from network; and __fish_seen_subcommand_from check' -f -a '(_roost_machines)'
complete -c roost -n '__fish_seen_subcommand_from network; and not __fish_seen_subcommand_from list check repair' -f -a repair -d 'set up again what is missing: the firewall\'s table, addresses, routes, settings'
complete -c roost -n '__fish_seen_subcommand_from network; and __fish_seen_subcommand_from repair' -f -a '(_roost_machines)'
