/* --doctor: looks at what the relay needs, and asks one that runs by its own public port; says what is wrong and what to do. Nothing is
 * made or changed, and a relay that runs is not disturbed. */
#pragma once

int doctor_main(int argc, char **argv);
