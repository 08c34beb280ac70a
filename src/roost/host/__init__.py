"""What the computer can do and how it is asked: system calls, processes, files. Knows no word of Roost's own."""
