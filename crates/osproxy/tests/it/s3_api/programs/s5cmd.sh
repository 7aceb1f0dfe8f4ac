# s5cmd: parallel copies, synchronization and deletion in batches.
export S3_ENDPOINT_URL=$S3_ENDPOINT AWS_REGION=us-east-1

mkdir -p local/deep
head -c 30000000 /dev/urandom >local/large.bin
for name in one.txt 'with space+%2F.txt' deep/ü.txt; do
    echo "content of $name" >"local/$name"
done
for number in {1..30}; do
    echo "$number" >"local/deep/$number"
done
s5cmd mb s3://s5cmd
s5cmd cp --part-size 5 --concurrency 4 'local/' s3://s5cmd/tree/
s5cmd cp --part-size 5 --concurrency 4 's3://s5cmd/tree/*' down/
diff -r local down
[[ $(s5cmd ls 's3://s5cmd/tree/' | awk '{print $NF}' | sort) == $(printf '%s\n' %2F.txt deep/ large.bin one.txt | sort) ]] ||
    [[ $(s5cmd ls s3://s5cmd/tree/ | wc -l) == 4 ]]
rm local/one.txt local/deep/7
echo more >local/deep/ü.txt
s5cmd sync --delete local/ s3://s5cmd/tree/
s5cmd sync --delete 's3://s5cmd/tree/*' down/
diff -r local down
s5cmd cp 's3://s5cmd/tree/large.bin' s3://s5cmd/copy.bin
s5cmd cat s3://s5cmd/copy.bin | cmp - local/large.bin
s5cmd pipe s3://s5cmd/piped <local/large.bin
s5cmd cat s3://s5cmd/piped | cmp - local/large.bin
s5cmd mv s3://s5cmd/piped s3://s5cmd/moved
curl --silent --fail "$(s5cmd presign s3://s5cmd/moved)" | cmp - local/large.bin
s5cmd rm 's3://s5cmd/*'
[[ -z $(s5cmd ls s3://s5cmd 2>/dev/null) ]]
s5cmd rb s3://s5cmd
