/* A client that no server started would become a job of one by itself. That is
 * the silent failure the bridge exists to end. */
#include "src/include/pmix_config.h"
#include "src/include/pmix_globals.h"

pmix_status_t pmix_tool_init_info(void)
{
    return PMIX_ERR_UNREACH;
}
