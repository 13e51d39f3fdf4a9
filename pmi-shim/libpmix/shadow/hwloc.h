/* Nothing: no topology is looked at here (replaced/topology.c), and without the
 * real header's types nothing that would look at one compiles. */
