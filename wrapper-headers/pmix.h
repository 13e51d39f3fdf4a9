/* What pmi-shim/libpmix/build.rs gives to bindgen: the headers of the OpenPMIx
 * that is compiled into the bridge. */
#include <pmix.h>
#include <pmix_server.h>
