/* SPDX-License-Identifier: MIT */
/*
 * roost-init's reading of files, for cases from standard input: a length, and the name of a user. The files are those of
 * the working directory. Built with the sanitisers: whatever is wrong ends it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *here(const char *path) {
    if (strcmp(path, "/etc/passwd") == 0)
        return "merged/etc/passwd";
    return strcmp(path, "/etc/group") == 0 ? "merged/etc/group" : "environment";
}

#define open(path, ...) open(here(path), __VA_ARGS__)
#define fopen(path, mode) fopen(here(path), mode)
#define main roost_init
#include SOURCE
#undef main

int main(void) {
    uint32_t length;
    char *user;
    struct account *account;

    while (fread(&length, sizeof length, 1, stdin) == 1) {
        user = calloc(1, length + 1);
        account = calloc(1, sizeof *account);
        if (!user || !account || fread(user, 1, length, stdin) != length)
            return 1;
        uint32_t found = (uint32_t) look_up(user, account);
        uint32_t home = (uint32_t) strlen(account->home);
        uint32_t head[] = {found, account->uid, account->gid, (uint32_t) account->n_groups, home};
        fwrite(head, sizeof head, 1, stdout);
        fwrite(account->home, 1, home, stdout);
        fflush(stdout);
        clearenv();
        (void) read_environment();
        clean_environment(account, 0);
        free(account);
        free(user);
    }
    return 0;
}
