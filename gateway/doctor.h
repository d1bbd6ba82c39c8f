/* --doctor: walks the path that a call takes, step by step, with the modules that the gateway itself uses, and says what is wrong and
 * what to do. It leaves no trace in the files of a gateway that runs, and takes no call from it: the relay is asked for the upgrade,
 * and left before a session could begin. */
#pragma once

int doctor_main(int argc, char **argv);
