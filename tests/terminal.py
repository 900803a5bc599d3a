"""Programs that believe that a person looks on."""

import fcntl
import os
import pty
import struct
import subprocess
import termios


def on_a_terminal(words, **surroundings):
    """Run a command on a terminal of 120 columns: (exit code, all that it said). surroundings: Popen's, as cwd and env."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    running = subprocess.Popen(list(map(str, words)), stdout=follower, stderr=follower, **surroundings)
    os.close(follower)
    said = b""
    while True:
        try:
            said += os.read(leader, 65536)
        except OSError:  # EIO: the other end is closed
            os.close(leader)
            return running.wait(), said.decode()
